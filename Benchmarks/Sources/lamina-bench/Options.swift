import Foundation

/// The command line.
struct Options {
    static let usage = """
        lamina-bench --lamina PATH [--dir DIR] [--quick] [--write FILE] [--part NAME]…

          --lamina PATH   the release binary to be measured
          --dir DIR       where inputs are kept and stores are made (default: LAMINA_BENCH_DIR, else .bench)
          --quick         fewer rounds; without the 4 GiB file and the part formats
          --write FILE    write the page of figures as well as print the table
          --part NAME     only this part: \(Bench.parts.map(\.name).joined(separator: ", "))
        """

    var lamina = ""
    var directory = ProcessInfo.processInfo.environment["LAMINA_BENCH_DIR"] ?? ".bench"
    var quick = false
    var page: String?
    var parts: Set<String> = []

    init(_ arguments: [String]) throws {
        var rest = arguments[...]
        func value(of option: String) throws -> String {
            guard let value = rest.popFirst() else { throw Failure("\(option) wants a value\n\n\(Self.usage)") }
            return value
        }
        while let option = rest.popFirst() {
            switch option {
            case "--lamina": lamina = try value(of: option)
            case "--dir": directory = try value(of: option)
            case "--quick": quick = true
            case "--write": page = try value(of: option)
            case "--part":
                parts.formUnion(
                    try value(of: option).split(whereSeparator: { $0 == "," || $0 == " " }).map(String.init))
            default: throw Failure("\(option) is not known\n\n\(Self.usage)")
            }
        }
        guard access(lamina, X_OK) == 0 else { throw Failure("--lamina: no binary at '\(lamina)'\n\n\(Self.usage)") }
        if let wrong = parts.first(where: { part in !Bench.parts.contains { $0.name == part } }) {
            throw Failure("there is no part '\(wrong)'\n\n\(Self.usage)")
        }
        lamina = URL(fileURLWithPath: lamina).standardizedFileURL.path
        directory = URL(fileURLWithPath: directory).standardizedFileURL.path
    }
}
