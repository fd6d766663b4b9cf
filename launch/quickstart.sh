#!/usr/bin/env bash
# The main use case on real text, in minutes: launch/quickstart.sh [--smoke] [FOLDER]      (default folder: quickstart)
# Pretrains a small dense model on the King James Bible, then continues twice on Perl's manual with the same tokens, as
# it is (CPT) and upcycled to a Mixture-of-Experts, and compares the three on held-out text of both. A second run reuses
# what is there. --smoke takes two steps on a little text.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

smoke=0 out=
for arg in "$@"; do
  case "$arg" in
    --smoke) smoke=1 ;;
    -*) echo "quickstart.sh: unknown option $arg (known: --smoke)" >&2; exit 2 ;;
    *) out=$arg ;;
  esac
done
every=1 overrides=()
if ((smoke)); then
  every=4 overrides=(--train.steps=2 --train.warmup_steps=1 --train.log_every=1 --checkpoint.every=2)
fi
((smoke)) && out=${out:-quickstart/smoke} || out=${out:-quickstart}

say() { printf '\n== [%3ds] %s\n' "$SECONDS" "$*"; }

./launch/install.sh build quickstart
say "Building"
./launch/build.sh upcycle_program
upcycle=build/release/upcycle

say "Text of two domains: the King James Bible, the manual of Perl"
./launch/quickstart_text.sh "$out/text" "$every"
wc -c "$out"/text/*.txt | awk '$2 != "total" { printf "   %-40s %9.1f kB\n", $2, $1 / 1000 }'

tokenizer=$out/tokenizer.model
if [[ ! -s $tokenizer ]]; then
  say "Vocabulary of 2048 pieces"
  if ! spm_train --input="$out/text/bible.txt,$out/text/perl.txt" --model_prefix="$out/tokenizer.tmp" --model_type=bpe \
    --vocab_size=2048 --byte_fallback=true --character_coverage=0.9999 --normalization_rule_name=identity \
    --remove_extra_whitespaces=false --allow_whitespace_only_pieces=true --input_sentence_size=40000 \
    --shuffle_input_sentence=true --minloglevel=1 >"$out/tokenizer.log" 2>&1; then
    cat "$out/tokenizer.log" >&2
    exit 1
  fi
  rm "$out/tokenizer.tmp.vocab"
  mv "$out/tokenizer.tmp.model" "$tokenizer"
fi

for set in bible bible_valid perl perl_valid; do
  if [[ ! -s $out/tokens/$set.idx || $tokenizer -nt $out/tokens/$set.idx ]]; then
    say "Tokens of $set"
    mkdir -p "$out/tokens"
    rm -f "$out/tokens/$set.bin" "$out/tokens/$set.idx"
    "$upcycle" tokenize --tokenizer "$tokenizer" --doc-separator '<|endoftext|>' --output "$out/tokens/$set" \
      "$out/text/$set.txt"
  fi
done

# The loss of a run as bars, a dozen of its steps.
curve() {
  jq -r 'select(.loss) | "\(.step) \(.loss)"' "$1/metrics.jsonl" | awk '
    { step[NR] = $1; loss[NR] = $2; if ($2 > most) most = $2 }
    END {
      rows = NR < 12 ? NR : 12
      for (k = 0; k < rows; k++) {
        i = rows > 1 ? 1 + int((NR - 1) * k / (rows - 1)) : 1
        bar = ""
        for (n = 0; n < 50 * loss[i] / most; n++) bar = bar "#"
        printf "   step %5d  loss %.2f  %s\n", step[i], loss[i], bar
      }
    }'
}

# While the dense model trains, from its first checkpoint on: its loss curve so far and text that it generates.
first_look() {
  local until=$((SECONDS + 3600))
  until [[ -e $out/dense/latest ]]; do
    ((SECONDS < until)) || return 0
    sleep 0.5
  done
  say "A first look at the dense model, which trains on: $(head -n 1 "$out/dense/latest")
$(curve "$out/dense")
$("$upcycle" generate "$out/dense" "And the LORD said unto")"
}
looker=
trap '[[ -z $looker ]] || kill "$looker" 2>/dev/null || true' EXIT

# train NAME DOMAIN RANKS [override ...]: a run in $out/NAME. NAME.key records its settings: a run with other settings is
# started over, the same one resumes from its newest checkpoint, a finished one is kept.
train() {
  local name=$1 domain=$2 ranks=$3 config=launch/configs/quickstart_$1.json key
  shift 3
  key=$({
    cat "$config" "$tokenizer"
    echo "$domain" "$ranks" "$@" "${overrides[@]}"
    [[ $name == dense ]] || cat "$out/dense.key"
  } | sha256sum)
  if [[ $key != "$(cat "$out/$name.key" 2>/dev/null)" ]]; then
    rm -rf "${out:?}/$name" "$out/$name.done"
    echo "$key" >"$out/$name.key"
  fi
  if [[ -e $out/$name.done ]]; then
    echo "   $out/$name is there already"
    return
  fi
  if [[ $name == dense ]]; then
    first_look &
    looker=$!
  fi
  ./launch/run_local.sh -n "$ranks" train "$config" --data.train="$out/tokens/$domain" --data.tokenizer="$tokenizer" \
    --checkpoint.dir="$out/$name" "$@" "${overrides[@]}"
  touch "$out/$name.done"
  [[ -z $looker ]] || wait "$looker"
  looker=
}

# Two ranks write a checkpoint of two shards; the runs that start from it have another layout.
say "Dense model: pretraining on the Bible, on two data-parallel ranks"
train dense bible 2
say "CPT: the dense model goes on, on Perl's manual"
train cpt perl 1 --init.load="$out/dense" --data.valid="$out/tokens/perl_valid"
say "Upcycled: the dense model as 8 experts, 2 a token, on the same tokens of Perl's manual"
train moe perl 1 --init.upcycle="$out/dense" --data.valid="$out/tokens/perl_valid"

say "Held-out loss"
for name in dense cpt moe; do
  "$upcycle" inspect "$out/$name" --json >"$out/$name.json"
  for domain in bible perl; do
    result=$out/$name.$domain.json
    if [[ ! -s $result || $out/$name.done -nt $result ]]; then
      "$upcycle" eval "$out/$name" --data "$out/tokens/${domain}_valid" --json >"$result.tmp"
      mv "$result.tmp" "$result"
    fi
    jq -r --arg name "$name" --arg domain "$domain" \
      '"   \($name) on \($domain): loss \(.loss), \(.tokens) tokens"' "$result"
  done
done

say "A sample of each"
for name in dense cpt moe; do
  for prompt in "And the LORD said unto" "This function returns"; do
    printf -- '--- %s:\n' "$name"
    "$upcycle" generate "$out/$name" "$prompt"
    echo
  done
done

if [[ ! -e $out/moe_hf/config.json || $out/moe.done -nt $out/moe_hf/config.json ]]; then
  say "Exporting the MoE for transformers to $out/moe_hf"
  rm -rf "${out:?}/moe_hf"
  "$upcycle" export "$out/moe" "$out/moe_hf"
fi

"$upcycle" plot "$out/cpt" "$out/moe" --output "$out/plot.html"
"$upcycle" plot "$out/cpt" "$out/moe" --output "$out/plot.svg"

say "Done: curves and loads of experts in $out/plot.html"
{
  echo "model parameters active tokens FLOPs seconds loss:bible loss:perl"
  for name in dense cpt moe; do
    jq -r -s --arg name "${name/moe/upcycled}" '[$name, (.[0] | .parameters, .active_parameters, .tokens, .flops,
        .wall_seconds), .[1].loss, .[2].loss] | map(tostring) | join(" ")' \
      "$out/$name.json" "$out/$name.bible.json" "$out/$name.perl.json"
  done
} | awk '
  function si(x,  i) {
    for (i = 0; x >= 1000 && i < 5; i++) x /= 1000
    return i ? sprintf("%.2f %s", x, substr("kMGTP", i, 1)) : x
  }
  NR == 1 { printf "%-9s %12s %10s %10s %10s %9s %11s %10s\n", $1, $2, $3, $4, $5, $6, $7, $8; next }
  { printf "%-9s %12s %10s %10s %10s %9.1f %11.4f %10.4f\n", $1, si($2), si($3), si($4), si($5), $6, $7, $8 }'
echo "(tokens, FLOPs and seconds are those of each run's own training; loss is in nats per token of held-out text)"
