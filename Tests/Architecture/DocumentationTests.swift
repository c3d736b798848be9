import Foundation
import Testing

@Suite("What the documentation says of tests is so")
struct DocumentationTests {
    private static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    @Test("each row of docs/operations.md on what survives what names tests that there are")
    func survival() throws {
        let page = try String(contentsOf: Self.root.appending(path: "docs/operations.md"), encoding: .utf8)
        let section = try #require(page.firstRange(of: "## What survives what\n")?.upperBound)
        let rows = page[section...].prefix(while: { $0 != "#" }).split(separator: "\n")
            .filter { $0.hasPrefix("| ") }.dropFirst()
        #expect(rows.count > 10)
        let sources = try Self.testSources()
        let recipes = try String(contentsOf: Self.root.appending(path: "Makefile"), encoding: .utf8)
        for row in rows {
            let shown = try #require(row.split(separator: " | ").last)
            var count = 0
            for match in shown.matches(of: #/`(?<suite>\w+Tests)`(?<names>(?:,? "[^"]+")*)/#) {
                let text = try #require(sources["\(match.suite).swift"], "there is no \(match.suite): \(row)")
                for name in match.names.matches(of: #/"(?<words>[^"]+)"/#) {
                    let words = name.words.trimmingPrefix("…").split(separator: "…").first ?? ""
                    #expect(!words.isEmpty && text.contains(words), "\(match.suite) has no test named \(name.words)")
                }
                count += 1
            }
            for match in shown.matches(of: #/`make (?<recipe>\w+)`/#) {
                #expect(recipes.contains("\n\(match.recipe):"), "there is no \(match.output.0)")
                count += 1
            }
            #expect(count > 0, "no test shows this: \(row)")
        }
    }

    /// The text of every file of tests, by its name; files with the same name are joined.
    private static func testSources() throws -> [String: String] {
        let tests = root.appending(path: "Tests")
        let names = try FileManager.default.subpathsOfDirectory(atPath: tests.path)
        return try names.filter { $0.hasSuffix("Tests.swift") }.reduce(into: [:]) { result, name in
            let url = tests.appending(path: name)
            result[url.lastPathComponent, default: ""] += try String(contentsOf: url, encoding: .utf8)
        }
    }
}
