#!/usr/bin/env python3
"""launch/container/Dockerfile and upcycle.def: they say the same, and what they copy is there.
   container_test.py                    checks the two files
   container_test.py --commands ROOT    prints, for bash, what the Dockerfile does, with ROOT in the place of the image's /
"""
import os
import pathlib
import re
import shlex
import subprocess
import sys

PROJECT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = PROJECT / "launch/container"


def dockerfile(text):
    """What an image is made of: the names' defaults, the base, [source, target], commands, the program, its environment."""
    image = {"arguments": {}, "copies": [], "steps": [], "environment": {}}
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        word, rest = line.split(None, 1)
        if word == "ARG":
            name, value = rest.split("=")
            image["arguments"][name] = value
        elif word == "FROM":
            image["base"] = rest
        elif word == "COPY":
            *sources, target = rest.split()
            image["copies"] += [[source, target] for source in sources]
        elif word == "RUN":
            image["steps"].append(rest)
        elif word == "ENV":
            image["environment"].update(part.split("=") for part in rest.split())
        elif word == "ENTRYPOINT":
            image["program"] = rest.strip('[]"')
        elif word != "CMD":
            sys.exit(f"Dockerfile: this test knows no {word}")
    return image


def definition(text):
    image = {"arguments": {}, "copies": [], "steps": [], "environment": {}}
    section = ""
    for line in re.sub(r"\{\{ (\w+) \}\}", r"${\1}", text).splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("%"):
            section = line
        elif not section:
            name, value = line.split(": ")
            if name == "From":
                image["base"] = value
            elif line != "Bootstrap: docker":
                sys.exit(f"upcycle.def: found '{line}', expected 'Bootstrap: docker'")
        elif section == "%arguments":
            name, value = line.split("=")
            image["arguments"][name] = value
        elif section == "%files":
            image["copies"].append(line.split())
        elif section == "%post":
            image["steps"].append(line)
        elif section == "%environment":
            name, value = line.removeprefix("export ").split("=")
            image["environment"][name] = value
        elif section == "%runscript":
            image["program"] = line.removeprefix("exec ").removesuffix(' "$@"')
        else:
            sys.exit(f"upcycle.def: this test knows no {section}")
    return image


def wrong(docker, apptainer, files):
    """What is wrong with the two: sentences. `files`: what stands in the project's folder."""
    for key in docker:
        a, b = docker[key], apptainer.get(key)
        if key == "environment":  # NVIDIA's names are Docker's; Apptainer has --nv
            a = {name: value for name, value in a.items() if not name.startswith("NVIDIA_")}
        if a != b:
            yield f"the Dockerfile's {key} are {a}, those of upcycle.def {b}"
    copied = {source for source, _ in docker["copies"]}
    needed = {name for name in files if not name.startswith(".") and not name.endswith(".md")}
    for name in sorted(copied - files):
        yield f"{name}: copied, but not there"
    for name in sorted(needed - copied):
        yield f"{name}: there, but not copied"
    if "/" in docker["arguments"]["BASE"]:
        yield f"the base {docker['arguments']['BASE']} names a registry"
    for step in docker["steps"]:
        script = shlex.split(step)[0].removeprefix("/opt/upcycle/")
        if not os.access(PROJECT / script, os.X_OK):
            yield f"{script}: can not be run"


def commands(image, root):
    words = {name: value for name, value in image["arguments"].items()}
    yield f"mkdir -p '{root}/opt/upcycle'"
    for source, target in image["copies"]:
        yield f"cp -a '{PROJECT}/{source}' '{root}{target}'"
    for step in image["steps"]:
        command = re.sub(r"\$\{(\w+)\}", lambda match: words[match[1]], step)
        yield f"chroot '{root}' /bin/sh -ec {shlex.quote(command)}"


def main():
    texts = [(FOLDER / name).read_text() for name in ("Dockerfile", "upcycle.def")]
    docker, apptainer = dockerfile(texts[0]), definition(texts[1])
    if sys.argv[1:2] == ["--commands"]:
        print(*commands(docker, sys.argv[2]), sep="\n")
        return 0
    files = {path.name for path in PROJECT.iterdir()} - {".git", "build", "runs", "quickstart"}
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        files = {line.split("/")[0] for line in listed.stdout.splitlines()}
    found = list(wrong(docker, apptainer, files))
    # What must be noticed.
    for old, new in [("COPY core /opt/upcycle/core\n", ""), ("x86-64-v3", "native"), ("steps.sh", "other.sh"),
                     ("LICENSE", "LICENCE"), ("ENTRYPOINT [\"upcycle\"]", "ENTRYPOINT [\"bash\"]")]:
        assert old in texts[0], old
        if not list(wrong(dockerfile(texts[0].replace(old, new)), apptainer, files)):
            found.append(f"this test does not notice '{new}' for '{old.strip()}'")
    print(*found, sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
