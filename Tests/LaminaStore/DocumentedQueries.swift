import Foundation

// The queries of the documentation, taken from the pages themselves, so that exactly these are tested.

/// What schema/README.md says of a view.
struct DocumentedView {
    var name: String
    var columns: [String] = []
    var query = ""
    var answer = ""

    /// The sections `### \`name\`` of the README: a table of columns, a block of SQL and a block with its answer.
    static func all() throws -> [DocumentedView] {
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let text = try String(contentsOf: root.appending(path: "schema/README.md"), encoding: .utf8)
        var views: [DocumentedView] = []
        var block: String?
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            if block != nil, line == "```" {
                block = nil
            } else if block == nil, line.hasPrefix("```") {
                block = String(line.dropFirst(3))
            } else if let language = block, let last = views.indices.last {
                if language == "sql" { views[last].query += line + "\n" } else { views[last].answer += line + "\n" }
            } else if line.hasPrefix("### `") {
                views.append(DocumentedView(name: String(line.dropFirst(5).prefix { $0 != "`" })))
            } else if line.hasPrefix("| `"), let last = views.indices.last {
                views[last].columns.append(String(line.dropFirst(3).prefix { $0 != "`" }))
            }
        }
        return views
    }
}

/// A question of docs/inspecting.md, with its SQL and its answer.
struct DocumentedQuestion {
    var title: String
    var query: String
    var answer: String

    /// The blocks of docs/inspecting.md: each question with its SQL and its answer.
    static func all() throws -> [DocumentedQuestion] {
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let text = try String(contentsOf: root.appending(path: "docs/inspecting.md"), encoding: .utf8)
        return text.split(separator: "\n## ").dropFirst().map { section in
            func block(_ language: String) -> String {
                let parts = section.components(separatedBy: "```\(language)\n")
                return parts.count > 1 ? String(parts[1].components(separatedBy: "```")[0]) : ""
            }
            return DocumentedQuestion(
                title: String(section.prefix { $0 != "\n" }), query: block("sql"), answer: block("text"))
        }
    }
}
