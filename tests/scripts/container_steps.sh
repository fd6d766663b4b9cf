#!/usr/bin/env bash
# container_steps.sh [PRESET]: what launch/container/Dockerfile says, without an engine: in a bare Debian 12 of its own, as
# the base image is one. Then the program runs there, on one rank and on two. (PRESET=cuda builds the image for GPUs.)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
preset=${1:-release}

not_run() {
  echo "not run: container: $*"
  exit 77 # ctest: skipped
}
((EUID == 0)) && unshare --mount --pid --fork true 2>/dev/null || not_run "a root folder of its own needs root and namespaces"
./launch/install.sh container || not_run "there is no mmdebstrap"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
base=$work/root
grep -qx 'ARG BASE=debian:12' launch/container/Dockerfile # what the next line makes
mmdebstrap --quiet --variant=minbase --dpkgopt=force-unsafe-io bookworm "$base" # as that image does
# Certificates and settings with which this machine reaches its packages; an image's are those of its base. (The package
# ca-certificates, where it is installed, makes the bundle again, with those of the folder.)
for file in /etc/pip.conf /etc/ssl/certs/ca-certificates.crt /usr/local/share/ca-certificates/*.crt; do
  [[ ! -e $file ]] || install -D -m 644 "$file" "$base$file"
done

cat >"$work/try.sh" <<'END'
set -e
cd /tmp
upcycle --version
for i in $(seq 200); do echo "$((i % 7)) cats sat on $((i * 37 % 101)) mats."; done >text.txt
upcycle tokenize --tokenizer=bytes --output=tokens text.txt
tiny="/opt/upcycle/launch/configs/tiny_moe.json --data.train=tokens --model.vocab_size=258 --train.seq_length=16
  --train.global_batch_size=2 --train.micro_batch_size=1 --train.warmup_steps=0 --checkpoint.dir=run"
upcycle train $tiny --train.steps=1
/opt/upcycle/launch/run_local.sh -n 2 train $tiny --train.steps=2 --parallel.ep=2
upcycle inspect run
END
{
  echo set -e
  tests/scripts/container_test.py --commands "$base" | sed "s/\"release\"/\"$preset\"/"
  echo "export UPCYCLE_BINARY=/usr/local/bin/upcycle"
  echo "cp '$work/try.sh' '$base/tmp/' && chroot '$base' bash /tmp/try.sh"
} >"$work/inside.sh"
unshare --mount --pid --fork --kill-child --propagation private bash -ec "
  mount -t proc proc '$base/proc'
  mount --rbind /dev '$base/dev'
  env -u CCACHE_DIR -u LD_LIBRARY_PATH PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/tmp \
    bash '$work/inside.sh'" </dev/null
cmp "$base/opt/upcycle/LICENSE" LICENSE
echo "container: $(du -sh "$base" | cut -f1) in all"
