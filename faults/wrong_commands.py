"""Command lines that the command must refuse, and the line that it owes for each."""

from __future__ import annotations

# An argument that is refused with exit code 2, and what of the line must be there.
WRONG = {
    # unknown names
    "calibrate.percentil=99": "calibrate.percentil: there is no such setting; "
    "did you mean 'calibrate.percentile'?",
    "calibrat.percentile=99": "did you mean 'calibrate.percentile'?",
    "percentile=99": "did you mean 'calibrate.percentile'?",
    "train_repopt.search.epoch=1": "did you mean 'train_repopt.search.epochs'?",
    "epochs=3": "did you mean 'train_repopt.epochs' or",
    "+calibrate.foo=1": "calibrate.foo: there is no such setting; known: adjustment, batch_size,",
    "+foo=1": "foo: pipeline repopt_qat has no such key",
    "calibrate.percentile.x=1": "calibrate.percentile is a value, not a group of settings",
    "calibrate={nu: 3}": "calibrate.nu: there is no such setting",
    "pipelines=partial_quan": "group 'pipelines' has no option 'partial_quan'; "
    "did you mean 'partial_quant'?",
    "data=coc": "group 'data' has no option 'coc'; did you mean 'coco'?",
    "engine=tensort": "group 'engine' has no option 'tensort'; did you mean 'tensorrt'?",
    "model=yolov6m": "group 'model' has no option 'yolov6m'; did you mean 'yolov6t'?",
    "calibrate.stage=calibrat": "calibrate.stage: 'calibrat' is no stage; "
    "did you mean 'calibrate'?",
    "calibrate.method=entropi": "calibrate.method: 'entropi' is not one of max, percentile, "
    "entropy, mse, auto; did you mean 'entropy'?",
    "device=gpu": "device: 'gpu' is not one of auto, cpu, cuda; did you mean 'cpu'?",
    # values
    "calibrate.percentile=200": "calibrate.percentile: 200 is not above 0 and at most 100",
    "calibrate.percentile=nan": "calibrate.percentile: nan is not a finite number",
    "calibrate.percentile=inf": "calibrate.percentile: inf is not a finite number",
    "calibrate.percentile=much": "calibrate.percentile: 'much' is not a finite number",
    "calibrate.percentile=": "calibrate.percentile: '' is not a finite number",
    "partial_quant.quant_boundary=59": "partial_quant.quant_boundary: 59 is past the last of "
    "the model's 59 operations; give 0 to 58",
    "partial_quant.quant_boundary=-1": "partial_quant.quant_boundary: -1 is not at least 0",
    "partial_quant.quant_boundary=atuo": "partial_quant.quant_boundary: 'atuo' is not auto or a "
    "whole number",
    "partial_quant.max_map_drop=null": "partial_quant.max_map_drop: nothing bounds the search",
    "partial_quant.objective=speed": "partial_quant.objective: 'speed' is not one of accuracy, "
    "latency",
    "seed=-1": "seed: -1 is not between 0 and 2147483647",
    "seed=1.5": "seed: 1.5 is not a whole number",
    "debug=maybe": "debug: 'maybe' is not true or false",
    "run_dir=": "run_dir: '' is not a path",
    "model.image_size=161": "model.image_size: 161 is not a multiple of 32; take 160",
    "data.num_classes=9": "data.num_classes: 9 is not between 1 and 5",
    "build_engine.precision=int4": "build_engine.precision: 'int4' is not one of fp32, half, int8",
    "export.opset=3": "export.opset: 3 is not between 17 and 23",
    "engine.batch_sizes=[32,1]": "engine.batch_sizes: [32, 1] is not an ascending list",
    "data=yolo": "data.root: is not set; add data.root=VALUE",
    "data=coco": "no data set is named; set data.root=FOLDER",
    "calibrate.percentile=${nowhere}": "calibrate.percentile: Interpolation key 'nowhere' not",
    "calibrate.percentile=${oc.env:QUANTPIPE_NOT_SET}": "calibrate.percentile: ",
    # wiring
    "calibrate.inputs.model=train_repop.model": "calibrate.inputs.model: there is no step "
    "'train_repop'; did you mean 'train_repopt'?",
    "calibrate.inputs.model=train_repop": "calibrate.inputs.model: there is no step "
    "'train_repop'; did you mean 'train_repopt'?",
    "calibrate.inputs.model=train_repopt.modle": "calibrate.inputs.model: step train_repopt has "
    "no output 'modle'; did you mean 'model'?",
    "calibrate.inputs.model=train_repopt.history": "calibrate.inputs.model: "
    "train_repopt.history is a history, not a model",
    "calibrate.inputs.model=evaluate": "calibrate.inputs.model: step evaluate makes no model; "
    "it makes metrics, examples",
    "calibrate.inputs.model=a b": "calibrate.inputs.model: 'a b' is not a reference; "
    "write <step> or <step>.<output>",
    "calibrate.inputs.model=null": "calibrate.inputs.model: stage calibrate needs it (model)",
    "calibrate.inputs.model=partial_quant": "the steps form a cycle: calibrate -> "
    "sensitivity -> partial_quant -> calibrate",
    # the table of variants
    "variants.qat.precison=half": "did you mean 'variants.qat.precision'?",
    "variants.hlaf.precision=half": "did you mean 'variants.half.precision'?",
    "variants.half.precision=int4": "variants.half.precision: 'int4' is not one of fp32, half",
    "variants.half.model=train_repop": "variants.half.model: there is no step 'train_repop'; "
    "did you mean 'train_repopt'?",
    "variants.half.model=train_repopt.history": "variants.half.model: "
    "train_repopt.history is a history, not a model",
    "+variants.mine={model: calibrate, precison: int8}": "variants.mine.precison: there is no "
    "such setting; did you mean 'precision'?",
    "+variants.mine={precision: int8}": "variants.mine.model: is not set; give it a value",
    "variants.half=train_repopt": "variants.half: 'train_repopt' is not a row; list what is "
    "compared under variants:",
    "~variants": "variants: nothing is listed; list what is compared under variants:",
    "variant_defaults.optional=perhaps": "variant_defaults.optional: 'perhaps' is not true or "
    "false",
    # recipes of a former release
    "+build_engine.each={half: {precision: half}}": "build_engine.each: is of a former release's "
    "recipes; list what is compared under variants:, a line each, as ptq: {model: calibrate, "
    "precision: int8}",
    "+export.optional=true": "export.optional: is of a former release's recipes; set it in a line "
    "of variants:",
    "+calibrate.inputs.checkpoint=train_repopt.checkpoint": "calibrate.inputs.checkpoint: stage "
    "calibrate has no such input; a model holds its weights, ranges and plan: wire model: <step>",
    "+sensitivity.inputs.scales=calibrate.scales": "sensitivity.inputs.scales: stage sensitivity "
    "has no such input; a model holds its weights, ranges and plan: wire model: <step>",
    "+qat_distill.inputs.plan=partial_quant.plan": "qat_distill.inputs.plan: stage qat_distill "
    "has no such input; a model holds its weights, ranges and plan: wire model: <step>",
    "+export.inputs={checkpoint: train_repopt.checkpoint}": "export.inputs: its inputs follow "
    "from the variants; list what is compared under variants:",
    "+build_engine.inputs={onnx: export.float.onnx}": "build_engine.inputs: its inputs follow "
    "from the variants; list what is compared under variants:",
    "+evaluate.inputs.fp32=build_engine.fp32.engine": "evaluate.inputs.fp32: stage evaluate has "
    "no such input; list what is compared under variants:",
    "+evaluate.inputs.network_fp32=train_repopt.checkpoint": "evaluate.inputs.network_fp32: stage "
    "evaluate has no such input; list what is compared under variants:",
    "+evaluate.inputs.variants=calibrate": "evaluate.inputs.variants: follows from the variants; "
    "list what is compared under variants:",
    "pipeline.steps=[train_repopt,calibrat]": "calibrat: pipeline repopt_qat lists it, but no "
    "such step is configured; did you mean 'calibrate'?",
    "pipeline.steps=[]": "pipeline.steps: no step is listed",
    "~calibrate": "calibrate: pipeline repopt_qat lists it, but no such step is configured",
    # what cannot be read
    "calibrate": "calibrate: cannot be read as key=value",
    "=": "cannot be read as key=value",
    "calibrate.percentile=[1": "calibrate.percentile=[1: cannot be read as key=value",
    "engine=openvino,onnxruntime": "give -m to sweep over the values",
    "--badoption": "unrecognized arguments: --badoption; see quantpipe --help",
    "--info=foo": "see quantpipe --help",
    "--config-dir=nowhere": "nowhere: there is no such folder",
    "--config-name=other": "Cannot find primary config 'other'",
    "--config-path=conf": "--config-path: this option is refused; name your own folder",
    "--experimental-rerun=config.pickle": "--experimental-rerun: this option is refused; "
    "it reads a pickle",
    # code
    "+calibrate._target_=os.system": "'_target_' is refused",
    "+hydra.callbacks.mine._target_=os.system": "hydra.callbacks.mine._target_: 'os.system' is "
    "refused",
}


# A user's recipe as it should be.
RECIPE = """# @package _global_
defaults:
  - ptq
  - _self_
pipeline:
  name: mine
  steps: [train_repopt, calibrate]
calibrate:
  num_images: 3
"""


# Instead of the last step of that recipe; each would touch a file, or end the process.
HOSTILE = {
    "in a step": "calibrate: {{_target_: os.system, command: touch {canary}}}",
    "nested": "data: {{root: [{{x: {{_target_: os.system, command: touch {canary}}}}}]}}",
    "as a callback": "hydra: {{callbacks: {{x: {{_target_: os.system, "
    "command: touch {canary}}}}}}}",
    "as the launcher": "hydra: {{launcher: {{_target_: os.abort}}}}",
    "as the sweeper": "hydra: {{sweeper: {{_target_: os.abort}}}}",
    "through a part of hydra": "hydra: {{launcher: {{_target_: "
    "hydra._internal.core_plugins.bash_completion.os.abort}}}}",
    "through a plugin": "hydra: {{launcher: {{_target_: hydra_plugins.any.os.abort}}}}",
    "as a registered part elsewhere": "hydra: {{callbacks: {{x: {{_target_: "
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher}}}}}}",
    "as a log handler": "hydra: {{job_logging: {{handlers: {{x: {{'()': os.system, "
    "command: touch {canary}}}}}}}}}",
    "through hydra": "hydra: {{callbacks: {{x: {{_target_: hydra.utils.call, config: "
    "{{_target_: os.system, command: touch {canary}}}}}}}}}",
}
