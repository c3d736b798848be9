import ArgumentParser
import Foundation
import LaminaTestSupport
import Testing

@testable import lamina

@Suite("what commands say of themselves")
struct HelpTests {
    /// The words of an example, as a shell splits them; a remark follows three spaces.
    private func words(_ example: String) -> [String] {
        var words: [String] = []
        // What goes to a file or another program is handled by the shell.
        let line = ["   ", " > ", " | "].reduce(example) { $0.components(separatedBy: $1)[0] }
        for (index, part) in line.split(separator: "'", omittingEmptySubsequences: false).enumerated() {
            if index % 2 == 1 {
                words.append(String(part))
            } else {
                words += part.split(separator: " ").map(String.init)
            }
        }
        return words
    }

    @Test("every command has two examples that it would take, and every option has help")
    func commands() throws {
        let commands = try CommandHelp.ofProgram().all
        #expect(commands.count > 15)
        for command in commands {
            let name = command.words.joined(separator: " ")
            #expect(command.abstract?.hasSuffix(".") == true, "\(name)")
            #expect(command.examples.count >= 2, "\(name)")
            for argument in command.arguments ?? [] {
                #expect((argument.abstract ?? "").count > 5, "\(name) \(argument.signature)")
            }
            for example in command.examples {
                var words = words(example)
                if words.first == "sudo" { words.removeFirst() }
                #expect(words.first == "lamina", "\(name): \(example)")
                #expect(throws: Never.self, "\(example)") {
                    try Lamina.parseAsRoot(Check.completed(Array(words.dropFirst())))
                }
            }
        }
    }

    @Test("docs/commands.md has every command and every option")
    func documentation() throws {
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let text = try String(contentsOf: root.appending(path: "docs/commands.md"), encoding: .utf8)
        for command in try CommandHelp.ofProgram().all where command.subcommands?.isEmpty ?? true {
            #expect(text.contains("    " + command.words.joined(separator: " ")), "\(command.words)")
            for argument in command.shown where argument.kind != .positional {
                let isThere = (argument.names ?? []).contains { text.contains($0.text) }
                #expect(isThere, "\(command.words) \(argument.signature)")
            }
        }
    }

    @Test(
        "the manual has a page for each command, with all its options and examples, in which groff finds nothing amiss")
    func manual() throws {
        let pages = try Manual.pages()
        let commands = try CommandHelp.ofProgram().all
        #expect(pages.map(\.name) == commands.map { $0.words.joined(separator: "-") + ".1" })
        let directory = FileManager.default.temporaryDirectory.appending(path: "lamina-manual-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: directory) }
        for (page, command) in zip(pages, commands) {
            let path = directory.appending(path: page.name)
            try Data(page.text.utf8).write(to: path)
            let shown = try output(["groff", "-ww", "-man", "-Tascii", "-rLL=400n", path.path])
            #expect(shown.errors == "", "\(page.name)")
            let plain = shown.output.replacing(#/\u{1B}\[[0-9;]*m/#, with: "").replacing(#/.\u{8}/#, with: "")
            for argument in command.shown {
                #expect(plain.contains(argument.signature), "\(page.name): \(argument.signature)")
            }
            for example in command.examples { #expect(plain.contains(example), "\(page.name): \(example)") }
            for heading in ["NAME", "SYNOPSIS"] { #expect(plain.contains(heading), "\(page.name)") }
        }
    }

    @Test("completions name every command, and bash takes its own")
    func completions() throws {
        let commands = try CommandHelp.ofProgram().all
        for shell in [CompletionShell.bash, .zsh, .fish] {
            let script = Lamina.completionScript(for: shell)
            for command in commands { #expect(script.contains(command.commandName), "\(shell): \(command.words)") }
        }
        let path = FileManager.default.temporaryDirectory.appending(path: "lamina-completion-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: path) }
        try Data(Lamina.completionScript(for: .bash).utf8).write(to: path)
        let checked = try output(["bash", "-n", path.path])
        #expect(checked.errors == "" && checked.status == 0)
    }

    private func output(_ words: [String]) throws -> (output: String, errors: String, status: Int32) {
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/env")
        process.arguments = words
        let (output, errors) = (Pipe(), Pipe())
        process.standardOutput = output
        process.standardError = errors
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        let wrong = String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return (text, wrong, process.terminationStatus)
    }
}
