"""Which of two prompts is better on your own log? The verdict, and a report as one HTML file.

python examples/ab_of_two_prompts.py --engine hf
python examples/ab_of_two_prompts.py       # the engine `fake`: shows the report; its verdict means nothing
"""

import argparse
from pathlib import Path

from llmgen.evaluation import RunConfig, evaluate

HERE = Path(__file__).parent

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--engine", default="fake", help="hf, hf:MODEL, vllm:MODEL, openai:URL, ...; fake: no model")
parser.add_argument("--out", type=Path, default=Path("runs/ab-example"), help="folder; a stopped run goes on there")
options = parser.parse_args()

data = {"items": HERE / "data" / "songs.csv", "interactions": HERE / "data" / "plays.csv", "noun": "song"}
priors = {"transition": {"weight": 1.0}}
arm = {"engine": options.engine, "priors": priors, "lm_weight": 0.03}
config = RunConfig.model_validate(
    {
        "protocol": {"data": data, "k": 3},
        "arms": {
            "A": {**arm, "prompt": "next_item"},
            "B": {**arm, "prompt": "next_item_short", "prompt_folder": HERE / "prompts"},
        },
        "classics": "defaults",
        "latency_users": 5,
    }
)
results = evaluate(config, options.out)
for name, metric in {(row.arm, row.metric) for row in results.differences if row.metric == "ndcg@3"}:
    row = next(row for row in results.differences if (row.arm, row.metric) == (name, metric))
    print(f"{name}: {metric} {row.mean:+.4f} [{row.low:+.4f}, {row.high:+.4f}] against {results.baseline}")
print(results.verdict)
print(f"report: {options.out / 'report.html'}")
