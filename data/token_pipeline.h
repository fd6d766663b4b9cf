#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "data/chat.h"
#include "data/text_reader.h"
#include "data/token_set_writer.h"
#include "data/tokenize.h"
#include "data/tokenizer.h"

namespace upcycle {

// Where reading stands after a document, and what was left out before it.
struct ReadPosition {
  std::int64_t input = 0;             // its number
  std::int64_t offset = 0, line = 1;  // in its text
  std::int64_t empty_documents = 0, invalid_documents = 0, invalid_characters = 0;
};

// Cuts documents into pieces, encodes a batch of pieces on all threads and writes them in order.
class TokenPipeline {
 public:
  // `saved`: where a killed process's output goes on. `save` is called now and then with what can be gone on from.
  struct Saved {
    ReadPosition at;
    TokenSetWriter::Saved written;
    std::int64_t text_bytes = 0, targets = 0;
    std::int64_t emptied = 0;  // documents of which the tokenizer's normalizer left nothing
  };
  using Save = std::function<void(const Saved&)>;
  TokenPipeline(const Tokenizer& tokenizer, const TokenizeOptions& options, TokenizeCounts& counts, const Saved& saved,
                Save save);

  void note_invalid(std::int64_t characters);  // of the open document, before it is added
  void add_text(std::string_view text, const TextReader& reader);
  void add_conversation(const std::vector<ChatTurn>& turns);
  // `blank_counts`: whether a document without any bytes counts (between two separators) or not (after the last
  // separator). What comes next is at byte `offset`, line `line`, of input file `input`.
  void end_document(bool blank_counts, std::int64_t input, std::int64_t offset, std::int64_t line);
  void report(std::int64_t bytes_read) { counts_.bytes_read = bytes_read; }
  void finish();

 private:
  struct Piece {
    std::size_t bytes = 0;  // of the document, including a space at the cut after it
    bool ends_document = false;
    bool is_turn = false;     // of a conversation: what of it counts is in `counted`
    std::size_t answer = 0;   // of a turn: where the answer begins; its tokens count
    bool answered = false;    // and an end-of-document token follows it, which counts too
    ReadPosition after = {};  // where ends_document
  };
  void add_piece(std::string text, const Piece& piece);
  void leave_out();  // the open document
  void end_pieces(bool blank_counts);
  std::vector<std::vector<std::int32_t>> encode_batch(std::vector<std::vector<std::uint8_t>>& counted) const;
  void write(const Piece& piece, const std::vector<std::int32_t>& ids, std::vector<std::uint8_t> counted);
  void run_batch();

  const Tokenizer& tokenizer_;
  const TokenizeOptions& options_;
  TokenizeCounts& counts_;
  Save save_;
  TokenSetWriter writer_;
  std::size_t threads_ = 1;
  Saved saved_;  // after the last whole document written
  double saved_at_ = 0;

  std::string document_;  // what is read and not yet cut off
  bool started_ = false, has_text_ = false, left_out_ = false;
  std::int64_t invalid_ = 0;  // characters of this document
  std::size_t next_cut_;
  ReadPosition read_;  // its counts: of what was read

  std::vector<std::string> texts_;
  std::vector<Piece> batch_;  // of each text
  std::size_t batch_bytes_ = 0, document_tokens_ = 0, document_bytes_ = 0, document_targets_ = 0;
};

}  // namespace upcycle
