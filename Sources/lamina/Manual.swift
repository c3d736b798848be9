import ArgumentParser
import FoundationEssentials
import LaminaDaemon

/// The pages of the manual, made from the commands' descriptions of themselves; in man(7).
enum Manual {
    struct Page {
        /// `lamina-config-show.1`
        var name: String
        var text: String
    }

    static func pages() throws -> [Page] {
        let commands = try CommandHelp.ofProgram().all
        return commands.map { command in
            Page(name: command.words.joined(separator: "-") + ".1", text: text(of: command, commands))
        }
    }

    private static func text(of command: CommandHelp, _ all: [CommandHelp]) -> String {
        let name = command.words.joined(separator: "-")
        var lines = [
            ".TH \"\(escaped(name.uppercased()))\" 1 \"\" \"lamina \(laminaVersion)\" \"lamina\"", ".SH NAME",
            "\(escaped(name)) \\- \(escaped(sentence(command.abstract)))", ".SH SYNOPSIS", synopsis(of: command),
        ]
        if !command.prose.isEmpty {
            lines.append(".SH DESCRIPTION")
            for paragraph in command.prose { lines += [".PP", line(paragraph)] }
        }
        let below = all.filter { $0.superCommands == command.words }
        if !below.isEmpty {
            lines.append(".SH COMMANDS")
            for other in below {
                lines += [".TP", ".BR \(escaped(other.words.joined(separator: "-"))) (1)", line(other.abstract ?? "")]
            }
        }
        if !command.shown.isEmpty {
            lines.append(".SH OPTIONS")
            for argument in command.shown {
                lines += [".TP", ".B \(escaped(argument.signature))", line(argument.abstract ?? "")]
            }
        }
        if !command.examples.isEmpty {
            lines += [".SH EXAMPLES", ".nf"] + command.examples.map(line) + [".fi"]
        }
        if command.words.count > 1 {
            lines += [".SH EXIT STATUS", "See", ".BR lamina (1).", ".SH SEE ALSO", ".BR lamina (1)"]
        }
        return lines.joined(separator: "\n") + "\n"
    }

    private static func synopsis(of command: CommandHelp) -> String {
        var parts: [String] = []
        for argument in command.shown {
            let value = argument.kind == .option ? " \((argument.valueName ?? "value").uppercased())" : ""
            let text = argument.title + value
            parts.append((argument.isOptional ? "[\(text)]" : text) + (argument.isRepeating ? "..." : ""))
        }
        if !(command.subcommands ?? []).isEmpty { parts = ["COMMAND", "..."] }
        return ".B \(escaped(command.words.joined(separator: " ")))\n" + escaped(parts.joined(separator: " "))
    }

    /// In the form for a line of a page.
    private static func line(_ text: String) -> String {
        let text = escaped(text)
        // A point or a quote at the beginning would make it a request.
        return text.hasPrefix(".") || text.hasPrefix("'") ? "\\&" + text : text
    }

    private static func escaped(_ text: String) -> String {
        text.replacing("\\", with: "\\e").replacing("-", with: "\\-")
    }

    private static func sentence(_ text: String?) -> String {
        guard let text, text.hasSuffix(".") else { return text ?? "" }
        return String(text.dropLast())
    }
}

struct GenerateManual: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "generate-manual", abstract: "Write the pages of the manual to a directory.", shouldDisplay: false)

    @Argument(help: "An existing directory.") var directory: String

    func run() throws {
        try reporting {
            for page in try Manual.pages() {
                try Data(page.text.utf8).write(to: URL(filePath: directory).appending(path: page.name))
            }
        }
    }
}
