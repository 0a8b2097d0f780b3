"""Add captions to a table until the process is killed; print the ids of each batch once it has been written.

python caption_writer.py TABLE COUNT BATCH
"""

import sys

from tadp.captions import CaptionTable, Provenance

SOURCE = Provenance("tadp-tiny", generation={"min_new_tokens": 0})


def ids(count: int) -> list[str]:
    return [f"train/n{number * 7919 % count:06d}.jpg" for number in range(count)]


def caption_of(image_id: str) -> str:
    return f"a picture of {image_id} and of much else that makes the line longer"


def main() -> None:
    count, batch = int(sys.argv[2]), int(sys.argv[3])
    with CaptionTable.create(sys.argv[1], provenance=SOURCE) as table:
        missing = table.missing(ids(count))
        print("left", len(missing), flush=True)
        for start in range(0, len(missing), batch):
            image_ids = missing[start : start + batch]
            if batch == 1:
                table.add(image_ids[0], caption_of(image_ids[0]))
            else:
                table.update([(image_id, caption_of(image_id)) for image_id in image_ids])
            print("\n".join(image_ids), flush=True)


if __name__ == "__main__":
    main()
