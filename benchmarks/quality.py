"""How good is the bundled nuclei model? Validation pictures, by kind, through the production engine.

    python benchmarks/quality.py [--model nuclei] [--backend openvino --precision bf16]

Prints the table of the model card. The same from the command line:

    cellengine infer PICTURES -m nuclei -o OUT
    cellengine evaluate OUT ../shared/data/dsb2018/split.csv --where split=val --by kind
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from typing import Any

from _pictures import DATA
from _timing import write_result
from cellengine.engine.backends import open_session
from cellengine.engine.infer import infer_array
from cellengine.engine.model_file import resolve_model
from cellengine.io.annotated import list_annotated, read_annotated
from cellengine.metrics import InstanceScores, evaluate_instances, mean_over_pictures


def summary(scores: list[InstanceScores]) -> dict[str, Any]:
    mean = mean_over_pictures(scores)
    return {
        "pictures": len(scores),
        "nuclei": sum(s.n_true for s in scores),
        "found": sum(s.n_predicted for s in scores),
        "ap50": mean["ap0.5"],
        "ap75": mean["ap0.75"],
        "mean_ap": mean["mean_ap"],
        "precision": mean["precision"],
        "recall": mean["recall"],
        "f1": mean["f1"],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--precision", default="bf16")
    arguments = parser.parse_args()
    items = [i for i in list_annotated(DATA / "dsb2018" / "split.csv", kind_column="kind") if i.split == "val"]
    by_kind: dict[str, list[InstanceScores]] = defaultdict(list)
    model = resolve_model(arguments.model)
    with open_session(model, device="cpu", backend=arguments.backend, precision=arguments.precision) as session:
        for item in items:
            picture = read_annotated(item)
            labels = infer_array(picture.image, session).labels
            by_kind[item.kind].append(evaluate_instances(picture.labels, labels))
    rows = {kind: summary(scores) for kind, scores in sorted(by_kind.items())}
    rows["both fluorescence kinds"] = summary([s for k, v in by_kind.items() if k.startswith("fluo") for s in v])
    rows["both violet histology kinds"] = summary([s for k, v in by_kind.items() if k.startswith("histo") for s in v])
    rows["all"] = summary([s for v in by_kind.values() for s in v])
    write_result(
        "quality",
        "AP = TP / (TP + FP + FN), mean over the validation pictures of each kind",
        {"backend": arguments.backend, "precision": arguments.precision, "kinds": rows},
    )
    print("| kind | pictures | nuclei | AP@0.5 | AP@0.75 | mean AP | precision | recall |")
    print("|---" * 8 + "|")
    for kind, row in rows.items():
        shown = " | ".join(f"{row[name]:.3f}" for name in ("ap50", "ap75", "mean_ap", "precision", "recall"))
        print(f"| {kind} | {row['pictures']} | {row['nuclei']} | {shown} |")


if __name__ == "__main__":
    main()
