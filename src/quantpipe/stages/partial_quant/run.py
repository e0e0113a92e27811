"""Chooses which operations stay in float: by a ranking and a boundary, by budgets, or as given."""

from __future__ import annotations

from quantpipe.core.stage import Context, Inputs, Metrics, Outputs
from quantpipe.detector.checkpoint_family import implementation_of, operation_names
from quantpipe.errors import ConfigurationError
from quantpipe.quantization.model import Model, load_model, save_model
from quantpipe.quantization.plans.ranked import plan_from_boundary
from quantpipe.quantization.precision_plan import (
    PrecisionPlan,
    load_plan,
)
from quantpipe.quantization.sensitivity.released_table import read_released_text
from quantpipe.quantization.sensitivity.table import (
    SensitivityTable,
    load_table,
)
from quantpipe.settings.data import choose_images, open_split
from quantpipe.stages.partial_quant.accuracy import PlanAccuracy
from quantpipe.stages.partial_quant.config import (
    PartialQuantConfig,
    latency_opset,
)
from quantpipe.stages.partial_quant.latency import PlanTimer
from quantpipe.stages.partial_quant.search import Budget, search_plan


def run(config: PartialQuantConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Writes the plan, the checkpoint that carries it, and its scales."""
    model = load_model(inputs["model"].path, context.device)
    scales = model.require_scales()
    plan = _plan(config, inputs, model, context)
    context.progress.note(f"{context.step}: {plan.reason}")
    save_model(outputs["model"], model.checkpoint, scales, plan)
    return {
        "quant_boundary": config.quant_boundary,
        "float_operations": list(plan.float_operations),
        "reason": plan.reason,
        "latency": None if plan.latency is None else vars(plan.latency),
    }


def _plan(
    config: PartialQuantConfig, inputs: Inputs, model: Model, context: Context
) -> PrecisionPlan:
    if config.plan_file is not None:
        plan = load_plan(config.plan_file)
        names = operation_names(model.checkpoint)
        plan.require_operations(names, path=config.plan_file)
        return plan
    table = _table(config, inputs, model)
    if config.quant_boundary != "auto":
        return plan_from_boundary(table, config.quant_boundary)
    return _searched(config, table, model, context)


def _searched(
    config: PartialQuantConfig, table: SensitivityTable, model: Model, context: Context
) -> PrecisionPlan:
    dataset = open_split(config.data, config.split, context)
    if config.num_images is not None:
        chosen = choose_images(dataset, config.num_images, context)
        dataset = dataset.subset(chosen)
    accuracy = PlanAccuracy(
        loaded=model,
        dataset=dataset,
        batch_size=config.batch_size,
        num_resamples=config.num_resamples,
        context=context,
    )
    timer = PlanTimer(
        loaded=model,
        engine=config.engine,
        folder=context.progress_folder / "latency",
        context=context,
        **{**vars(config.latency), "opset": latency_opset(config)},
    )
    budget = Budget(
        max_map_drop=config.max_map_drop,
        max_latency_ratio=config.max_latency_ratio,
        max_latency_ms=config.max_latency_ms,
        accept_inconclusive=config.when_unsure == "int8",
    )
    return search_plan(table, budget, accuracy, timer if config.by_latency else None)


def _table(config: PartialQuantConfig, inputs: Inputs, model: Model) -> SensitivityTable:
    """The ranking of the wired step, or of a published text file, which names no weights."""
    operations = operation_names(model.checkpoint)
    if config.table_file is not None:
        table = read_released_text(config.table_file)
        released = implementation_of(model.checkpoint).released
        if released is not None:
            table = table.renamed(released.operation_namer(operations))
        table.require_operations(operations, path=config.table_file)
        return table
    if "table" not in inputs:
        raise ConfigurationError(
            "no ranking is given",
            path="partial_quant.inputs.table",
            hint="wire a sensitivity step, or set partial_quant.table_file=FILE",
        )
    source = inputs["table"].path
    table = load_table(source)
    table.require_weights(model.checkpoint.weights_digest, path=source)
    table.require_operations(operations, path=source)
    return table
