import BenchReport
import Foundation

/// What every part uses.
final class Bench {
    let options: Options
    let space: Workspace
    let inputs: Inputs
    let loops = ReadLoops()
    var findings = Findings()
    /// What could not be compared, and why.
    var absences: [String] = []

    init(_ options: Options) throws {
        self.options = options
        space = try Workspace(root: options.directory, lamina: options.lamina)
        inputs = Inputs(space: space)
    }

    /// How many times something is measured: at least five for the table, fewer for everyday use.
    func rounds(_ full: Int, quick: Int) -> Int { options.quick ? quick : full }

    func add(_ id: String, _ value: Double) { findings.add(id, value) }

    /// Adds two measurements of one round and their ratio.
    func add(_ id: String, _ value: Double, against reference: Double) {
        add(id, value / reference)
        add(id + ".value", value)
        add(id + ".reference", reference)
    }

    /// Runs the requested parts. A part that fails is reported; the others go on.
    func measure() -> Bool {
        var ok = true
        for (name, part) in Self.parts where isWanted(name) {
            say("\(name):")
            do {
                let seconds = try timed { try part(self)() }
                say("\(name) took \(Int(seconds.rounded())) s")
            } catch {
                ok = false
                say("\(name) FAILED: \(error)")
                absences.append("part `\(name)`: \(error)")
            }
        }
        return ok
    }

    /// Everyday use leaves out figures without a bound.
    private func isWanted(_ part: String) -> Bool {
        options.parts.isEmpty ? !(options.quick && part == "formats") : options.parts.contains(part)
    }

    static let parts: [(name: String, body: @Sendable (Bench) -> () throws -> Void)] = [
        ("pull", pullPart), ("large", largePart), ("small", smallPart), ("reads", readsPart), ("tree", treePart),
        ("restart", restartPart), ("memory", memoryPart), ("formats", formatsPart), ("convert", convertPart),
        ("scale", scalePart),
        ("sealed", sealedPart),
    ]

    /// A pull of a whole image into a new store.
    func pull(_ registry: Registry, _ image: Image, into store: String, lazy: Bool = false) throws -> PullOutcome {
        let (usage, output) = try run(
            [space.lamina, "pull", "--json", "--root", store] + (lazy ? ["--lazy"] : []) + [registry.reference(image)])
        let result = try JSONSerialization.jsonObject(with: Data(output.utf8)) as? [String: Any] ?? [:]
        return PullOutcome(
            usage: usage, bytes: (result["bytes"] as? NSNumber)?.doubleValue ?? 0,
            fetched: (result["fetchedBytes"] as? NSNumber)?.doubleValue ?? 0)
    }

    /// Runs one closure for each side, beginning with another one each round, so that no side has the better moments.
    func interleaved(_ rounds: Int, _ sides: [Side], _ body: (Side) throws -> Double) throws -> [[String: Double]] {
        try (0..<rounds).map { round in
            var result: [String: Double] = [:]
            for place in sides.indices {
                let side = sides[(place + round) % sides.count]
                result[side.name] = try body(side)
            }
            return result
        }
    }
}

struct PullOutcome {
    var usage: Usage
    /// Of all files of the image.
    var bytes: Double
    var fetched: Double
}

/// The same files at different places: on the disk, in lamina, in an image of another file system.
struct Side {
    /// The name of the side that is lamina's own file in the store.
    static let backing = "backing"

    var name: String
    var path: String
}
