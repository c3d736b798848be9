import ArgumentParser
import FoundationEssentials

/// A command's description of itself: what `--experimental-dump-help` prints, as far as manuals need it.
struct CommandHelp: Decodable {
    struct Argument: Decodable {
        struct Name: Decodable {
            enum Kind: String, Decodable { case long, short, longWithSingleDash }

            var kind: Kind
            var name: String

            var text: String { kind == .long ? "--\(name)" : "-\(name)" }
        }

        enum Kind: String, Decodable { case positional, option, flag }

        var kind: Kind
        var shouldDisplay: Bool
        var isOptional: Bool
        var isRepeating: Bool
        var names: [Name]?
        var valueName: String?
        var abstract: String?

        /// `--json`, `--root`; for a positional argument its value's name in capitals.
        var title: String {
            guard kind != .positional else { return (valueName ?? "").uppercased() }
            return names?.first { $0.kind == .long }?.text ?? names?.first?.text ?? ""
        }

        /// All names, with the value behind the last one.
        var signature: String {
            guard kind != .positional else { return title }
            let all = (names ?? []).map(\.text).joined(separator: ", ")
            return kind == .option ? "\(all) \((valueName ?? "value").uppercased())" : all
        }
    }

    private struct Tool: Decodable {
        var command: CommandHelp
    }

    var commandName: String
    var superCommands: [String]?
    var abstract: String?
    var discussion: String?
    var subcommands: [CommandHelp]?
    var arguments: [Argument]?
    var shouldDisplay: Bool

    /// `lamina config show`
    var words: [String] { (superCommands ?? []) + [commandName] }

    /// For the whole program.
    static func ofProgram() throws -> CommandHelp {
        try JSONDecoder().decode(Tool.self, from: Data(Lamina._dumpHelp().utf8)).command
    }

    /// This command and those below it that users see, the upper ones first.
    var all: [CommandHelp] {
        [self] + (subcommands ?? []).filter { $0.shouldDisplay && $0.commandName != "help" }.flatMap(\.all)
    }

    /// The arguments that users see.
    var shown: [Argument] { (arguments ?? []).filter(\.shouldDisplay) }

    /// The lines of the discussion that are examples: those that are indented.
    var examples: [String] {
        lines.filter { $0.hasPrefix("  ") }.map { String($0.drop { $0 == " " }) }
    }

    /// The discussion without them.
    var prose: [String] {
        lines.filter { !$0.hasPrefix("  ") }.joined(separator: "\n").split(separator: "\n").map(String.init)
    }

    private var lines: [String] {
        (discussion ?? "").split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
    }
}
