/// A regular expression in the syntax of Go's regexp (https://github.com/google/re2/wiki/Syntax), without Unicode's named classes.
///
/// Matching takes time in proportion to pattern times text, for any pattern and text: all ways through the pattern are followed
/// at once (Thompson). This matters because a filter comes from outside.
struct Pattern: Sendable {
    enum Instruction: Sendable {
        case match
        case character(CharacterSet)
        case split(Int, Int)
        case jump(Int)
        case assertion(Assertion)
    }

    enum Assertion: Sendable { case textStart, textEnd, lineStart, lineEnd, wordBoundary, noWordBoundary }

    /// Ranges of characters.
    struct CharacterSet: Sendable, Equatable {
        var ranges: [ClosedRange<UInt32>]
        var isNegated = false

        func contains(_ value: UInt32) -> Bool { ranges.contains { $0.contains(value) } != isNegated }
    }

    /// How large repetitions may make a pattern.
    static let sizeLimit = 5000

    private let program: [Instruction]

    /// nil for a text that is not a pattern, or one that would be too large.
    init?(_ bytes: [UInt8]) {
        guard let text = String(validating: bytes, as: UTF8.self),
            let node = try? PatternParser.parse(Array(text.unicodeScalars))
        else { return nil }
        var program: [Instruction] = []
        guard Self.compile(node, &program) else { return nil }
        program.append(.match)
        self.program = program
    }

    private static func compile(_ node: PatternNode, _ program: inout [Instruction]) -> Bool {
        guard program.count < sizeLimit else { return false }
        switch node {
        case .empty: return true
        case .set(let set): program.append(.character(set))
        case .assertion(let assertion): program.append(.assertion(assertion))
        case .sequence(let nodes): return nodes.allSatisfy { compile($0, &program) }
        case .alternatives(let nodes):
            var ends: [Int] = []
            for (index, node) in nodes.enumerated() {
                let isLast = index == nodes.count - 1
                let split = program.count
                if !isLast { program.append(.split(split + 1, 0)) }
                guard compile(node, &program) else { return false }
                if !isLast {
                    ends.append(program.count)
                    program.append(.jump(0))
                    program[split] = .split(split + 1, program.count)
                }
            }
            for end in ends { program[end] = .jump(program.count) }
        case .repeated(let node, let least, let most):
            for _ in 0..<least {
                let start = program.count
                guard compile(node, &program) else { return false }
                // Nothing stays nothing, however often it is repeated.
                if program.count == start { break }
            }
            if let most {
                var splits: [Int] = []
                for _ in least..<max(least, most) {
                    splits.append(program.count)
                    program.append(.split(program.count + 1, 0))
                    guard compile(node, &program) else { return false }
                }
                for split in splits { program[split] = .split(split + 1, program.count) }
            } else {
                let split = program.count
                program.append(.split(split + 1, 0))
                guard compile(node, &program) else { return false }
                program.append(.jump(split))
                program[split] = .split(split + 1, program.count)
            }
        }
        return program.count < sizeLimit
    }

    /// Whether the pattern is found anywhere in a text; bytes that are not UTF-8 count as U+FFFD.
    func matches(_ text: [UInt8]) -> Bool {
        let scalars = Array(String(decoding: text, as: UTF8.self).unicodeScalars).map(\.value)
        var current = States(count: program.count)
        for position in 0...scalars.count {
            // It may begin anywhere.
            if follow(0, at: position, in: scalars, &current) { return true }
            guard position < scalars.count else { return false }
            var next = States(count: program.count)
            for state in current.list {
                guard case .character(let set) = program[state], set.contains(scalars[position]) else { continue }
                if follow(state + 1, at: position + 1, in: scalars, &next) { return true }
            }
            current = next
        }
        return false
    }

    private struct States {
        var list: [Int] = []
        var isIn: [Bool]
        init(count: Int) { isIn = Array(repeating: false, count: count) }
    }

    /// Adds a state and all that can be reached from it without a character.
    ///
    /// - Returns: whether the end of the pattern is among them.
    private func follow(_ start: Int, at position: Int, in text: [UInt32], _ states: inout States) -> Bool {
        var stack = [start]
        while let state = stack.popLast() {
            guard !states.isIn[state] else { continue }
            states.isIn[state] = true
            switch program[state] {
            case .match: return true
            case .character: states.list.append(state)
            case .jump(let target): stack.append(target)
            case .split(let first, let second): stack += [second, first]
            case .assertion(let assertion):
                if Self.holds(assertion, at: position, in: text) { stack.append(state + 1) }
            }
        }
        return false
    }

    private static func holds(_ assertion: Assertion, at position: Int, in text: [UInt32]) -> Bool {
        let isStart = position == 0
        let isEnd = position == text.count
        func isWord(_ index: Int) -> Bool { text.indices.contains(index) && CharacterSet.word.contains(text[index]) }
        switch assertion {
        case .textStart: return isStart
        case .textEnd: return isEnd
        case .lineStart: return isStart || text[position - 1] == 10
        case .lineEnd: return isEnd || text[position] == 10
        case .wordBoundary: return isWord(position - 1) != isWord(position)
        case .noWordBoundary: return isWord(position - 1) == isWord(position)
        }
    }
}

extension Pattern.CharacterSet {
    static let digit = Self(ranges: [0x30...0x39])
    static let word = Self(ranges: [0x30...0x39, 0x41...0x5A, 0x5F...0x5F, 0x61...0x7A])
    static let space = Self(ranges: [0x09...0x0A, 0x0C...0x0D, 0x20...0x20])

    /// RE2's classes in brackets, all of ASCII.
    static let named: [String: [ClosedRange<UInt32>]] = [
        "alnum": [0x30...0x39, 0x41...0x5A, 0x61...0x7A], "alpha": [0x41...0x5A, 0x61...0x7A], "ascii": [0...0x7F],
        "blank": [0x09...0x09, 0x20...0x20], "cntrl": [0...0x1F, 0x7F...0x7F], "digit": [0x30...0x39],
        "graph": [0x21...0x7E], "lower": [0x61...0x7A], "print": [0x20...0x7E],
        "punct": [0x21...0x2F, 0x3A...0x40, 0x5B...0x60, 0x7B...0x7E], "space": [0x09...0x0D, 0x20...0x20],
        "upper": [0x41...0x5A], "word": word.ranges, "xdigit": [0x30...0x39, 0x41...0x46, 0x61...0x66],
    ]

    /// All characters that are not in it, as ranges.
    var complement: [ClosedRange<UInt32>] {
        var result: [ClosedRange<UInt32>] = []
        var next: UInt32 = 0
        for range in ranges.sorted(by: { $0.lowerBound < $1.lowerBound }) {
            if range.lowerBound > next { result.append(next...(range.lowerBound - 1)) }
            next = max(next, range.upperBound + 1)
        }
        if next <= 0x10FFFF { result.append(next...0x10FFFF) }
        return result
    }

    /// With ASCII letters of either case.
    var ignoringCase: Self {
        var result = self
        for range in ranges {
            let upper = range.clamped(to: 0x41...0x5A)
            if range.overlaps(0x41...0x5A) { result.ranges.append((upper.lowerBound + 32)...(upper.upperBound + 32)) }
            let lower = range.clamped(to: 0x61...0x7A)
            if range.overlaps(0x61...0x7A) { result.ranges.append((lower.lowerBound - 32)...(lower.upperBound - 32)) }
        }
        return result
    }
}
