#include "launch/charts/page.h"

#include <fmt/core.h>

#include "launch/charts/text.h"

namespace upcycle::charts {

std::string page_of(const std::string& title, const std::string& body) {
  return std::string("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n") +
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n" +
         "<meta name=\"color-scheme\" content=\"light dark\">\n" +
         "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
         "script-src 'unsafe-inline'\">\n" +
         "<title>" + escaped(title) + "</title>\n<style>" + page_style + "</style>\n</head>\n<body>\n<main>\n" + body +
         "</main>\n<div id=\"tip\" role=\"status\" hidden></div>\n<script>" + page_script +
         "</script>\n</body>\n</html>\n";
}

std::string section_html(const Section& s) {
  std::string html = fmt::format("<section id=\"{}\">\n<h2>{}</h2>\n", escaped(s.id), escaped(s.title));
  if (s.body.empty()) return html + "<p class=\"absent\">" + escaped(s.absent) + "</p>\n</section>\n";
  if (!s.intro.empty()) html += "<p class=\"intro\">" + escaped(s.intro) + "</p>\n";
  return html + s.body + "</section>\n";
}

std::string contents_html(const std::vector<Section>& sections) {
  std::string html = "<nav aria-label=\"Contents\">";
  for (const Section& s : sections)
    html += fmt::format("<a href=\"#{}\"{}>{}</a> ", escaped(s.id), s.body.empty() ? " class=\"quiet\"" : "",
                        escaped(s.title));
  return html + "</nav>\n";
}

std::string table_html(const Table& t) {
  if (t.rows.empty()) return "";
  const auto cell = [&](const char* tag, std::size_t column, const std::string& html) {
    const std::string kind = column < t.text_columns ? (html.size() > 60 ? "words long" : "words") : "";
    return fmt::format("<{0}{1}>{2}</{0}>", tag, kind.empty() ? "" : " class=\"" + kind + "\"", html);
  };
  std::string html = "<div class=\"wide\" tabindex=\"0\"><table><thead><tr>";
  for (std::size_t c = 0; c < t.head.size(); ++c) html += cell("th", c, t.head[c]);
  html += "</tr></thead><tbody>\n";
  for (std::size_t r = 0; r < t.rows.size(); ++r) {
    const std::string kind = r < t.row_classes.size() ? t.row_classes[r] : "";
    html += kind.empty() ? "<tr>" : "<tr class=\"" + kind + "\">";
    for (std::size_t c = 0; c < t.rows[r].size(); ++c) html += cell("td", c, t.rows[r][c]);
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>\n";
}

std::string code_html(const std::string& text) { return text.empty() ? "" : "<code>" + escaped(text) + "</code>"; }

}  // namespace upcycle::charts
