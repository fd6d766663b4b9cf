#pragma once
#include <string>
#include <vector>

namespace upcycle::charts {

// A whole page that needs nothing but itself; the browser is told to load nothing. `title` is plain text, `body` HTML.
std::string page_of(const std::string& title, const std::string& body);

extern const char* const page_style;   // page_style.cpp
extern const char* const page_script;  // page_script.cpp: hover texts, by pointer, touch and arrow keys

// A heading with its part of the page. `body` "": the line `absent` says that, and why, there is nothing to show.
struct Section {
  std::string id, title, intro;  // plain text
  std::string body;              // HTML
  std::string absent;            // plain text
};
std::string section_html(const Section& section);
std::string contents_html(const std::vector<Section>& sections);  // links to them

// A table that scrolls in a box of its own where it is wider than the page. Cells are HTML.
struct Table {
  std::vector<std::string> head;
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> row_classes = {};  // "" or one for each row
  std::size_t text_columns = 1;               // the first ones; the others hold numbers, aligned on the right
};
std::string table_html(const Table& table);
std::string code_html(const std::string& text);  // a command or config: monospace, wraps

}  // namespace upcycle::charts
