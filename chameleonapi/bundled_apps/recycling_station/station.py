import argparse

from bin_rules import BIN_OF
from cloud_eyes import describe


def choose_bin(path):
    for word in describe(path):
        for bin_name, things in BIN_OF.items():
            if word in things:
                return bin_name
    return "landfill"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="which lid to open")
    parser.add_argument("image")
    print(choose_bin(parser.parse_args().image))
