#!/usr/bin/env bash
# Two text domains as the token sets of a study:
#   launch/study_text.sh [--tokenizer FILE] [--vocabulary N] [--every N] FOLDER [OLD.txt NEW.txt [OLD_VALID.txt NEW_VALID.txt]]
# Writes FOLDER/old_train, old_valid, new_train and new_valid (.bin, .idx), and FOLDER/tokenizer.model: FILE, or a
# sentencepiece model of N pieces (512) made from both texts. With a tokenizer.json (launch/install.sh tokenizer_json)
# there is none: give `upcycle compare` --data.tokenizer=null. OLD is what the dense model is, or was, pretrained on, NEW
# what it is continued with. A line <|endoftext|> ends a document. Without held-out files each 20th document is held out,
# or, where there are fewer than 20, the last 20th of the lines. Without texts: the King James Bible and Perl's manual,
# from Debian's packages; of these only each --every-th document.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
separator='<|endoftext|>'

usage() {
  sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

tokenizer= vocabulary=512 every=1 words=()
while (($#)); do
  case $1 in
    --tokenizer) tokenizer=${2:-}; shift 2 || usage ;;
    --vocabulary) vocabulary=${2:-}; shift 2 || usage ;;
    --every) every=${2:-}; shift 2 || usage ;;
    -*) usage ;;
    *) words+=("$1"); shift ;;
  esac
done
((${#words[@]} == 1 || ${#words[@]} == 3 || ${#words[@]} == 5)) || usage
folder=${words[0]}
for file in "${words[@]:1}" ${tokenizer:+"$tokenizer"}; do
  [[ -s $file ]] || { echo "study_text.sh: $file: found no text, expected a file; check its path" >&2; exit 2; }
done
upcycle=${UPCYCLE_BINARY:-$root/build/release/upcycle}
[[ -x $upcycle ]] || { echo "study_text.sh: no binary at $upcycle: ./launch/build.sh makes it" >&2; exit 2; }
mkdir -p "$folder"

# split FILE NAME: its training and held-out parts, as $folder/NAME_train.txt and $folder/NAME_valid.txt.
split() {
  local documents lines
  documents=$(grep -cxF -- "$separator" "$1" || true)
  if ((documents >= 20)); then
    awk -v train="$folder/$2_train.txt" -v valid="$folder/$2_valid.txt" -v end="$separator" '
      { print > (n % 20 == 19 ? valid : train) } $0 == end { n++ }' "$1"
  else
    lines=$(wc -l <"$1")
    head -n $((lines - lines / 20)) "$1" >"$folder/$2_train.txt"
    tail -n $((lines / 20)) "$1" >"$folder/$2_valid.txt"
  fi
}

if ((${#words[@]} == 1)); then
  "$root/launch/quickstart_text.sh" "$folder/text" "$every"
  words+=("$folder/text/bible.txt" "$folder/text/perl.txt" "$folder/text/bible_valid.txt" "$folder/text/perl_valid.txt")
fi
if ((${#words[@]} == 5)); then
  texts=("${words[@]:1}")
else
  split "${words[1]}" old
  split "${words[2]}" new
  texts=("$folder/old_train.txt" "$folder/new_train.txt" "$folder/old_valid.txt" "$folder/new_valid.txt")
fi

if [[ $tokenizer == *.json ]]; then
  tokenize=("$root/launch/tokenize_hf.py" --tokenizer "$tokenizer")
elif [[ -n $tokenizer ]]; then
  [[ $tokenizer -ef $folder/tokenizer.model ]] || cp "$tokenizer" "$folder/tokenizer.model"
elif [[ ! -s $folder/tokenizer.model ]]; then
  spm_train --input="${texts[0]},${texts[1]}" --model_prefix="$folder/tokenizer.tmp" --model_type=bpe \
    --vocab_size="$vocabulary" --byte_fallback=true --character_coverage=0.9999 --normalization_rule_name=identity \
    --remove_extra_whitespaces=false --allow_whitespace_only_pieces=true --input_sentence_size=40000 \
    --shuffle_input_sentence=true --minloglevel=1 >"$folder/tokenizer.log" 2>&1 || { cat "$folder/tokenizer.log" >&2; exit 1; }
  rm "$folder/tokenizer.tmp.vocab"
  mv "$folder/tokenizer.tmp.model" "$folder/tokenizer.model"
fi

[[ -v tokenize ]] || tokenize=("$upcycle" tokenize --tokenizer "$folder/tokenizer.model")
names=(old_train new_train old_valid new_valid)
for i in 0 1 2 3; do
  set=$folder/${names[i]}
  if [[ ! -s $set.idx || ${texts[i]} -nt $set.idx || ${tokenize[-1]} -nt $set.idx ]]; then
    rm -f "$set.bin" "$set.idx"
    "${tokenize[@]}" --doc-separator "$separator" --output "$set" "${texts[i]}"
  fi
done
