import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

/// Compares directory trees by Tests/Fixtures/tree.py.
enum TreeOracle {
    private static let program = Fixtures.directory + "/tree.py"

    /// Describes the tree at `path` into `file`.
    static func describe(_ path: String, to file: String) throws {
        let outcome = try run(["/bin/sh", "-c", "exec python3 \"$1\" \"$2\" >\"$3\"", "sh", program, path, file])
        try outcome.orThrow()
    }

    /// The differences between two descriptions, as tree.py prints them; nil if there are none.
    ///
    /// - Parameters:
    ///   - ignoringDirectoryTimes: as Tests/Fixtures/README.md allows for the fixtures.
    ///   - keepsFractions: otherwise all times of the expected tree are cut to whole seconds, which is what eStargz keeps; the
    ///     tree under test must have exactly those.
    static func differences(
        expected: String, actual: String, in sandbox: Sandbox, ignoringDirectoryTimes: Bool,
        keepsFractions: Bool = false
    ) throws -> String? {
        let directory = ignoringDirectoryTimes ? ["no-directory-times"] : []
        let left = try normalized(expected, "expected", (keepsFractions ? [] : ["seconds"]) + directory, sandbox)
        let right = try normalized(actual, "actual", directory, sandbox)
        let outcome = try run(["python3", program, "--diff", left, right])
        if outcome.exitCode == 0 { return nil }
        return outcome.output + outcome.errors
    }

    private static func normalized(_ file: String, _ name: String, _ options: [String], _ sandbox: Sandbox) throws
        -> String
    {
        let result = "\(sandbox.directory)/\(name).normalized.jsonl"
        let words = ["python3", "-c", Scripts.normalize, file] + options
        try run(["/bin/sh", "-c", "out=$1; shift; exec \"$@\" >\"$out\"", "sh", result] + words).orThrow()
        return result
    }

    /// Expects that a mount shows the tree of the fixtures.
    static func expectFixture(
        at mount: String, in sandbox: Sandbox, _ comment: String, keepsFractions: Bool = false,
        _ location: SourceLocation = #_sourceLocation
    ) throws {
        let actual = sandbox.directory + "/actual.jsonl"
        try describe(mount, to: actual)
        let found = try differences(
            expected: Fixtures.directory + "/tree.jsonl", actual: actual, in: sandbox, ignoringDirectoryTimes: true,
            keepsFractions: keepsFractions)
        #expect(found == nil, "\(comment): \(found ?? "")", sourceLocation: location)
    }

    /// Expects that a mount shows the contents of a directory.
    ///
    /// - Parameter ignoringDirectoryTimes: for directories that a layer does not list, and for the root, containerd and umoci
    ///   show when they were unpacked.
    static func expectSame(
        _ directory: String, at mount: String, in sandbox: Sandbox, keepsFractions: Bool = false,
        ignoringDirectoryTimes: Bool = false, _ comment: String = "", _ location: SourceLocation = #_sourceLocation
    ) throws {
        let (expected, actual) = (sandbox.directory + "/expected.jsonl", sandbox.directory + "/actual.jsonl")
        try describe(directory, to: expected)
        try describe(mount, to: actual)
        let found = try differences(
            expected: expected, actual: actual, in: sandbox, ignoringDirectoryTimes: ignoringDirectoryTimes,
            keepsFractions: keepsFractions)
        #expect(found == nil, "\(comment) \(found ?? "")", sourceLocation: location)
    }

    /// The bytes of all files of a tree.
    static func fileBytes(of path: String) throws -> Int64 {
        let text = try run(["find", path, "-type", "f", "-printf", "%s\\n"]).orThrow().output
        return text.split(separator: "\n").reduce(0) { $0 + (Int64($1) ?? 0) }
    }
}
