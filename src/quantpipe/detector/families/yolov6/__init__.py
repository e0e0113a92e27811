"""YOLOv6 (arXiv 2209.02976): networks, their forms, and their loss."""
