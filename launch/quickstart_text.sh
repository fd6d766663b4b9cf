#!/usr/bin/env bash
# Two text domains from Debian packages: launch/quickstart_text.sh FOLDER [every]
# Writes bible.txt and bible_valid.txt (a chapter is a document), perl.txt and perl_valid.txt (a manual page of perl-doc
# is a document); every document ends with a line <|endoftext|>, each 20th is held out. With `every`, only each
# `every`-th document is used.
set -euo pipefail
export LC_ALL=C
folder=$1 every=${2:-1}
separator='<|endoftext|>'

# Splits the documents on standard input into the files $1 (training) and $2 (held out).
split_documents() {
  awk -v train="$1" -v valid="$2" -v every="$every" -v end="$separator" '
    { if (n % every == 0) print > (int(n / every) % 20 == 19 ? valid : train) }
    $0 == end { n++ }
    END {
      if (int((n - 1) / every) >= 19) exit
      print "quickstart_text.sh: only " n + 0 " documents for " train >"/dev/stderr"
      exit 1
    }'
}

bible_documents() {
  # One verse per line, "Ge1:1 In the beginning ..."; remove the reference, start a document with each chapter.
  bible -f 'Genesis 1:1-Revelation 22:21' </dev/null | awk -v end="$separator" '
    { split($1, reference, ":")
      if (NR > 1 && reference[1] != chapter) print end
      chapter = reference[1]
      sub(/^[^ ]+ /, ""); print }
    END { if (NR) print end }'
}

perl_documents() {
  # Without two pages that are lists and four that are not in English.
  dpkg-query -L perl-doc | grep '/perl[^/]*\.pod$' | grep -vE '/perl(toc|uniprops|cn|jp|ko|tw)\.pod$' | sort |
    while read -r page; do
      iconv -c -f UTF-8 -t UTF-8 "$page"
      printf '\n%s\n' "$separator"
    done
}

mkdir -p "$folder"
for domain in bible perl; do
  [[ -s $folder/$domain.txt && -s $folder/${domain}_valid.txt ]] && continue
  "${domain}_documents" | split_documents "$folder/$domain.tmp" "$folder/${domain}_valid.tmp"
  mv "$folder/${domain}_valid.tmp" "$folder/${domain}_valid.txt"
  mv "$folder/$domain.tmp" "$folder/$domain.txt"
done
