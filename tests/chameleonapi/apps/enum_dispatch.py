import enum
import boto3


class Bin(enum.Enum):
    PAPER = "blue"
    GLASS = "green"
    ORGANIC = "brown"


RULES = {
    Bin.PAPER: ("Paper", "Newspaper", "Cardboard", "Magazine"),
    Bin.GLASS: ("Glass", "Wine bottle", "Jar"),
    Bin.ORGANIC: ("Banana", "Apple", "Leaf", "Bread"),
}


def classify(labels):
    for label in labels:
        for target, names in RULES.items():
            if label["Name"] in names and label["Confidence"] > 70:
                return target
    return None


def open_lid(which):
    import serial
    with serial.Serial("/dev/ttyUSB0", 9600) as port:
        port.write(which.value.encode())


def handle(path):
    rek = boto3.client("rekognition")
    with open(path, "rb") as fh:
        out = rek.detect_labels(Image={"Bytes": fh.read()}, MaxLabels=20)
    which = classify(out["Labels"])
    if which is not None:
        open_lid(which)
    else:
        print("residual waste")


if __name__ == "__main__":
    import sys
    handle(sys.argv[1])
