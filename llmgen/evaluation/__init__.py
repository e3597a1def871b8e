"""Offline evaluation: recommenders on held-out items of a log, with intervals, costs, classic baselines and a report.

    from llmgen.evaluation import RunConfig, compare, evaluate

    config = RunConfig.read(None, ["A=next_item", "B=next_item_taste"], users=200)
    results = evaluate(config, Path("runs/ab"))        # also runs/ab/report.html
    print(results.verdict)
    rows = compare(Path("runs/ab"), Path("runs/ab2"))  # later, without asking anyone again

The commands `llmgen evaluate`, `ab`, `compare`, `report` and `tune` are made of the same parts.
"""

from llmgen.evaluation.arms.arm_config import ArmConfig
from llmgen.evaluation.comparison import compare
from llmgen.evaluation.config import RunConfig
from llmgen.evaluation.protocols.protocol import Protocol
from llmgen.evaluation.results import Results
from llmgen.evaluation.run import evaluate

__all__ = ["ArmConfig", "Protocol", "Results", "RunConfig", "compare", "evaluate"]
