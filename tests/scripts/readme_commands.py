#!/usr/bin/env python3
"""Every command that the READMEs show is run: here, on a small model made here, or by another test or script that is
named here: readme_commands.py PROGRAM

A command runs as it is written, but for the replacements that make it small. A new command fails until this file says
what runs it. Exit code 77: what makes the model is not installed."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ["README.md", "launch/README.md", "kernels/README.md", "tests/README.md"]
PROGRAMS = (r"(\./)?(upcycle (?!\.\.\.)|launch/\S+\.(sh|py) |build/\S+ |tests/\S+\.sh|sbatch |mpirun |srun |ctest |wandb |docker |"
            r"apptainer |nsys |tar |source |PATH=|UPCYCLE_)")

# What a command says, and what it says here so that it takes seconds.
SMALL_STEP = "--train.seq_length=32 --train.micro_batch_size=1 --train.global_batch_size=4 --model.num_hidden_layers=1"
SMALL = [
    ("--upcycle.at_step=1000", "--upcycle.at_step=2"),
    ("train moe.json --parallel.ep=2 ...", "train moe.json --init.upcycle=dense --parallel.ep=2 --checkpoint.dir=runs/ep2"),
    ("doctor --folder=", "doctor --seconds=1 --folder="),
    ("help COMMAND", "help train"),
    ("diff a b", "train run.json --debug.dump=a && cp -r a b && upcycle diff a b"),
    ("plan CONFIG", "plan launch/configs/llama3_8b_moe.json"),
    ("bench ops launch/configs/bench_moe.json", "bench ops launch/configs/bench_moe.json --seconds=0.001 " + SMALL_STEP),
    ("bench step launch/configs/bench_moe.json", "bench step launch/configs/bench_moe.json " + SMALL_STEP),
    ("bench collectives launch/configs/bench_moe.json",
     "bench collectives launch/configs/bench_moe.json --seconds=0.001 " + SMALL_STEP),
    ("bench checkpoint launch/configs/bench_moe.json --folder=/tmp",
     "bench checkpoint launch/configs/bench_moe.json --folder=. --repeats=1 " + SMALL_STEP),
    ("bench serve runs/moe", "bench serve runs/moe --seconds=4 --input-len=16 --output-len=8"),
    ("bench calibrate launch/configs/bench_moe.json", "bench calibrate run.json"),
    ("bench calibrate moe.json", "bench calibrate run.json"),
]

# Commands that run elsewhere: how they begin, the file that runs them, and words of it.
ELSEWHERE = [
    ("./launch/quickstart.sh", ".ci/run", "./launch/quickstart.sh --smoke"),
    ("upcycle plot quickstart/", "launch/quickstart.sh", "plot"),
    ("./launch/install.sh", "launch/test.sh", "launch/install.sh"),
    ("./launch/build.sh", "launch/test.sh", "launch/build.sh"),
    ("launch/build.sh --preset cuda", "launch/test.sh", "--preset cuda"),
    ("launch/build.sh --march", "launch/container/steps.sh", "--march"),
    ("launch/install.sh cuda_tools", "launch/test.sh", "cuda_tools"),
    ("launch/install.sh", "launch/test.sh", "launch/install.sh"),
    ("./launch/test.sh", "tests/scripts/test_script_test.sh", "launch/test.sh"),
    ("./launch/check.sh", "tests/scripts/check_script_test.sh", "check.sh"),
    ("ctest --test-dir", "launch/test.sh", "ctest --test-dir"),
    ("launch/tokenize_hf.py", "tests/scripts/check_tokenize_hf.py", "tokenize_hf.py"),
    ("PATH=", "tests/scripts/readme_commands.py", "build/release:{os.environ"),
    ("launch/study_text.sh", "tests/scripts/study_test.sh", "launch/study_text.sh"),
    ("upcycle compare launch/configs/study_own.json", "tests/scripts/study_test.sh", "study_own.json"),
    ("upcycle compare study.json", "tests/scripts/study_test.sh", "compare"),
    ("upcycle plan launch/configs/study_own.json", "tests/scripts/study_test.sh", "plan"),
    ("build/release/upcycle bench serve --url", "tests/cli/bench_serve_test.cpp", "--url"),
    ("mpirun --quiet -H", "tests/cluster/two_hosts.sh", "mpirun"),
    ("sbatch -N 2", "tests/cluster/slurm.sh", "train.sbatch"),
    ("UPCYCLE_ELASTIC=6 launch/run_local.sh", "tests/scripts/elastic.sh", "UPCYCLE_ELASTIC"),
    ("UPCYCLE_ELASTIC=8 sbatch", "tests/cluster/slurm_elastic.sh", "UPCYCLE_ELASTIC"),
    ("sbatch --signal", "tests/cluster/slurm_requeue.sh", "train.sbatch"),
    ("srun --mpi=pmix upcycle_gpu", "tests/cluster/slurm_bundle.sh", "srun"),
    ("launch/gpu_check.sh", "tests/cuda_host/cli/gpu_check_test.cpp", "gpu_check.sh"),
    ("launch/gpu_bundle.sh", "tests/cuda_host/cli/gpu_bundle.sh", "gpu_bundle.sh"),
    ("tar -xf upcycle_gpu.tar.xz", "tests/cuda_host/cli/gpu_bundle.sh", "tar"),
    ("upcycle_gpu/gpu_check.sh", "tests/cuda_host/cli/gpu_bundle.sh", "gpu_check.sh"),
    ("launch/profile_nsys.sh", "tests/cuda_host/cli/profile_scripts_test.cpp", "profile_nsys.sh"),
    ("launch/profile_ncu.sh", "tests/cuda_host/cli/profile_scripts_test.cpp", "profile_ncu.sh"),
    ("tests/cuda_host/check_cubins.sh", "tests/cuda_host/CMakeLists.txt", "check_cubins.sh"),
    ("docker build", "tests/scripts/container_test.py", "Dockerfile"),
    ("apptainer build", "tests/scripts/container_test.py", "upcycle.def"),
]

# Commands of tools that no test has: how they begin, and what is missing. The documents say "not tried" of them.
NOT_HERE = [
    (r"build/cuda/upcycle |UPCYCLE_BINARY=build/cuda/", "a GPU"),
    (r"docker run|apptainer (run|exec)|srun --mpi=pmix apptainer|mpirun .* apptainer|UPCYCLE_BINARY=\S*\.sif", "a container engine"),
    (r"wandb sync", "a network"),
    (r"nsys profile", "Nsight Systems"),
    (r"srun --(mpi|gpus-per-task)=\S+$", "a whole command: this is an option"),
]


def commands_of(document):
    """The commands of a document, without comments: of indented lines, of tables, between backquotes."""
    text = re.sub(r" *\\\n +", " ", (ROOT / document).read_text())
    found = []
    for line in re.findall(r"^    (\S.*)$", text, re.M):
        found += re.sub(r" +# .*", "", line).split(" && ") if re.match(PROGRAMS, line) else []
    found += [code for code in re.findall(r"`([^`\n]+)`", text) if re.match(PROGRAMS, code) and " " in code]
    return [command.strip() for command in found]


# doctor's verdict of a machine that is slow or busy: the command itself worked.
ALLOWED = {"doctor": 1}


def run(command, log):
    print(f"    {command}", flush=True)
    with open(log, "w") as out:
        code = subprocess.run(["bash", "-c", f"set -euo pipefail; {command}"], stdin=subprocess.DEVNULL, stdout=out,
                              stderr=subprocess.STDOUT).returncode
    allowed = next((ALLOWED[word] for word in command.split() if word in ALLOWED), 0)
    if code in (0, allowed):
        return True
    print(Path(log).read_text()[-2000:])
    return False


def make_model_and_files():
    """hf_llama_dir, texts and configs as the documents name them; the text is the documents themselves."""
    texts = [(ROOT / name).read_text() for name in ("WALK.md", "launch/README.md", "README.md", "launch/coming_from.md")]
    Path("docs").mkdir()
    Path("docs/a.txt").write_text(texts[0])
    Path("docs/b.txt").write_text(texts[1])
    Path("valid.txt").write_text("\n<|endoftext|>\n".join("".join(texts).split("\n## ")))
    chat = [{"messages": [{"role": "user", "content": "What is this?"}, {"role": "assistant", "content": texts[2][:300]}]}]
    Path("chat.jsonl").write_text("".join(json.dumps(line) + "\n" for line in chat * 3))
    Path("prompts.jsonl").write_text('{"prompt": "Once upon", "max_tokens": 4}\n{"prompt": "A", "max_tokens": 2, "seed": 1}\n')
    Path("ids.json").write_text(json.dumps({"ids": list(range(3, 30))}))

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 8, "vocab_size": 512}
    train = {"tokens": 4096, "seq_length": 64, "micro_batch_size": 4, "global_batch_size": 16, "lr": 1e-3}
    Path("pretrain.json").write_text(json.dumps({"model": sizes, "train": train, "data": {"train": "tokens/first"},
                                                 "checkpoint": {"dir": "runs/first"}}))
    ranked = {"dtype": "fp32", "model": sizes | {"num_local_experts": 8, "num_experts_per_tok": 2}, "data": {"train": "tokens/docs"},
              "train": train | {"global_batch_size": 32, "tokens": 6144}}
    Path("run.json").write_text(json.dumps(ranked))
    Path("other_moe.json").write_text(json.dumps(ranked | {"model": ranked["model"] | {"intermediate_size": 192}}))

    # The README's own config, on as few tokens as its batch size allows.
    (block,) = re.findall(r"^    (\{ .*?\})\n\n", (ROOT / "README.md").read_text(), re.M | re.S)
    moe = json.loads(block)
    moe["train"] |= {"seq_length": 64, "tokens": 4 * 64 * moe["train"]["global_batch_size"], "warmup_steps": 1}
    Path("moe.json").write_text(json.dumps(moe))
    del moe["model"]
    Path("cpt.json").write_text(json.dumps(moe))

    return all(run(command, "log") for command in (
        "spm_train --input=docs/a.txt,docs/b.txt --model_prefix=t --model_type=bpe --vocab_size=512 --byte_fallback=true "
        "--minloglevel=2",
        "upcycle tokenize --tokenizer t.model --output tokens/first docs/*.txt",
        "upcycle train pretrain.json",
        "upcycle export runs/first hf_llama_dir && cp t.model hf_llama_dir/tokenizer.model"))


def what_runs(command, subcommands):
    """("here", the small command), ("elsewhere", FILE) or ("not here", what is missing); None: nothing is known of it."""
    for begin, file, _ in ELSEWHERE:
        if command.startswith(begin):
            return "elsewhere", file
    for pattern, missing in NOT_HERE:
        if re.match(pattern, command):
            return "not here", missing
    name = command.split()
    if name[0] == "upcycle" and len(name) == 2 + (name[1] == "bench") and name[1] != "help":  # only mentioned
        if name[1] not in subcommands:
            return None
        return "here", f"upcycle help {name[1]}"
    if re.match(r"upcycle |build/release/upcycle |launch/\S+\.sh |source ", command):
        for said, small in SMALL:
            command = command.replace(said, small)
        return "here", command
    return None


def main():
    program = Path(sys.argv[1]).resolve()
    if not shutil.which("spm_train"):
        print("not run: no spm_train here (launch/install.sh test)")
        sys.exit(77)
    for begin, file, words in ELSEWHERE:
        if words not in (ROOT / file).read_text():
            sys.exit(f"readme_commands.py: '{begin}': found no '{words}' in {file}, which is said to run it")
    failed, counts = 0, {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("build/release").mkdir(parents=True)
        Path("build/release/upcycle").symlink_to(program)
        Path("launch").symlink_to(ROOT / "launch")
        os.environ |= {"PATH": f"{folder}/build/release:{os.environ['PATH']}", "UPCYCLE_BINARY": str(program),
                       "OMP_WAIT_POLICY": "passive"}
        if not make_model_and_files():
            sys.exit("readme_commands.py: the small model could not be made")
        listed = subprocess.run(["upcycle", "help"], capture_output=True, text=True, check=True).stdout
        subcommands = re.findall(r"^  (\w+) ", listed, re.M)
        seen = set()
        for document in DOCUMENTS:
            for command in commands_of(document):
                known = what_runs(command, subcommands)
                if known is None:
                    print(f"{document}: nothing runs '{command}'; run it here or name what does in tests/scripts/readme_commands.py")
                    failed += 1
                    continue
                kind, what = known
                if kind == "here" and what not in seen:
                    seen.add(what)
                    if not run(what, "log"):
                        print(f"{document}: '{command}' failed")
                        failed += 1
                counts[kind] = counts.get(kind, 0) + 1
    print(", ".join(f"{number} {kind}" for kind, number in counts.items()) + f", {failed} failed")
    sys.exit(1 if failed else 0)


main()
