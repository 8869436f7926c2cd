import pathlib
import shutil
import click
import boto3

ALBUMS = {
    "people": {"Person", "Human", "Face", "People"},
    "animals": {"Animal", "Dog", "Cat", "Bird", "Wildlife"},
    "landscape": {"Nature", "Outdoors", "Mountain", "Landscape", "Scenery"},
    "documents": {"Text", "Document", "Receipt", "Page"},
}


def labels_for(client, path: pathlib.Path, confidence: int) -> set[str]:
    resp = client.detect_labels(Image={"Bytes": path.read_bytes()}, MaxLabels=20, MinConfidence=confidence)
    return {l["Name"] for l in resp["Labels"]}


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option("--out", default="sorted", help="where albums go")
@click.option("--confidence", default=75, type=int)
@click.option("--dry-run/--no-dry-run", default=False)
def main(folder, out, confidence, dry_run):
    """Sort pictures in FOLDER to albums."""
    client = boto3.client("rekognition", region_name="eu-west-1")
    for path in sorted(pathlib.Path(folder).glob("*.jpg")):
        labels = labels_for(client, path, confidence)
        for album, wanted in ALBUMS.items():
            if labels & wanted:
                click.echo(f"{path.name} -> {album}")
                if not dry_run:
                    target = pathlib.Path(out) / album
                    target.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, target / path.name)


if __name__ == "__main__":
    main()
