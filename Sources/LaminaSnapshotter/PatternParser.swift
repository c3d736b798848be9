/// A pattern as it was written.
indirect enum PatternNode: Sendable {
    case empty
    case set(Pattern.CharacterSet)
    case assertion(Pattern.Assertion)
    case sequence([PatternNode])
    case alternatives([PatternNode])
    case repeated(PatternNode, least: Int, most: Int?)
}

/// Reads patterns; see `Pattern`.
struct PatternParser {
    /// The text is not a pattern.
    struct Failure: Error {}

    private struct Flags {
        var ignoresCase = false
        var isMultiline = false
        var dotMatchesNewline = false
    }

    /// Go's own limits: how often something may be repeated, and how deep groups may be.
    private static let repeatLimit = 1000
    private static let depthLimit = 200

    private let text: [Unicode.Scalar]
    private var position = 0
    private var depth = 0

    static func parse(_ text: [Unicode.Scalar]) throws(Failure) -> PatternNode {
        var parser = PatternParser(text: text)
        var flags = Flags()
        let node = try parser.alternatives(&flags)
        guard parser.position == text.count else { throw Failure() }
        return node
    }

    private init(text: [Unicode.Scalar]) { self.text = text }

    private var current: Unicode.Scalar? { position < text.count ? text[position] : nil }

    private mutating func take(_ scalar: Unicode.Scalar) -> Bool {
        guard current == scalar else { return false }
        position += 1
        return true
    }

    private mutating func next() throws(Failure) -> Unicode.Scalar {
        guard let scalar = current else { throw Failure() }
        position += 1
        return scalar
    }

    /// Up to the end, or to the `)` that is left to the caller. Flags that are set in it hold to its end.
    private mutating func alternatives(_ flags: inout Flags) throws(Failure) -> PatternNode {
        var branches = [try sequence(&flags)]
        while take("|") { branches.append(try sequence(&flags)) }
        return branches.count == 1 ? branches[0] : .alternatives(branches)
    }

    private mutating func sequence(_ flags: inout Flags) throws(Failure) -> PatternNode {
        var nodes: [PatternNode] = []
        while let scalar = current, scalar != "|", scalar != ")" {
            if scalar == "\\", position + 1 < text.count, text[position + 1] == "Q" {
                // A repetition after it repeats only its last character.
                nodes += try quotation(flags)
                if let last = nodes.popLast() { nodes.append(try repeated(last)) }
                continue
            }
            let node = try atom(&flags)
            nodes.append(try repeated(node))
        }
        return nodes.count == 1 ? nodes[0] : .sequence(nodes)
    }

    private mutating func repeated(_ node: PatternNode) throws(Failure) -> PatternNode {
        let (least, most): (Int, Int?)
        switch current {
        case "*": (least, most) = (0, nil)
        case "+": (least, most) = (1, nil)
        case "?": (least, most) = (0, 1)
        case "{":
            guard let counts = counts() else { return node }
            (least, most) = counts
            guard least <= Self.repeatLimit, (most ?? 0) <= Self.repeatLimit, most.map({ $0 >= least }) ?? true else {
                throw Failure()
            }
            position -= 1
        default: return node
        }
        position += 1
        // Lazy or not makes no difference if only a match is asked for. A double repetition is an error.
        _ = take("?")
        switch current {
        case "*", "+", "?": throw Failure()
        case "{":
            let start = position
            guard counts() == nil else { throw Failure() }
            position = start
        default: break
        }
        return .repeated(node, least: least, most: most)
    }

    /// `{n}`, `{n,}` or `{n,m}`; nil for a brace that is an ordinary character.
    private mutating func counts() -> (Int, Int?)? {
        let start = position
        position += 1
        guard let least = number() else {
            position = start
            return nil
        }
        var most: Int? = least
        if take(",") { most = current == "}" ? nil : number() ?? -1 }
        guard most != -1, take("}") else {
            position = start
            return nil
        }
        return (least, most)
    }

    private mutating func number() -> Int? {
        var value: Int?
        while let scalar = current, ("0"..."9").contains(scalar) {
            // Beyond every limit, so it need not be right.
            value = min((value ?? 0) * 10 + Int(scalar.value - 48), 1_000_000)
            position += 1
        }
        return value
    }

    private mutating func atom(_ flags: inout Flags) throws(Failure) -> PatternNode {
        let scalar = try next()
        switch scalar {
        case "(": return try group(&flags)
        case "[": return .set(cased(try bracket(), flags))
        case ".": return .set(Pattern.CharacterSet(ranges: flags.dotMatchesNewline ? [] : [10...10], isNegated: true))
        case "^": return .assertion(flags.isMultiline ? .lineStart : .textStart)
        case "$": return .assertion(flags.isMultiline ? .lineEnd : .textEnd)
        case "*", "+", "?": throw Failure()
        case "{":
            // A count of nothing is an error, any other brace an ordinary character.
            position -= 1
            guard counts() == nil else { throw Failure() }
            position += 1
            return .set(cased(Pattern.CharacterSet(ranges: [scalar.value...scalar.value]), flags))
        case "\\":
            switch current {
            case "A": return assertion(.textStart)
            case "z": return assertion(.textEnd)
            case "b": return assertion(.wordBoundary)
            case "B": return assertion(.noWordBoundary)
            default: return .set(cased(try escape(), flags))
            }
        default: return .set(cased(Pattern.CharacterSet(ranges: [scalar.value...scalar.value]), flags))
        }
    }

    private mutating func assertion(_ assertion: Pattern.Assertion) -> PatternNode {
        position += 1
        return .assertion(assertion)
    }

    private func cased(_ set: Pattern.CharacterSet, _ flags: Flags) -> Pattern.CharacterSet {
        flags.ignoresCase ? set.ignoringCase : set
    }

    /// `\Q…\E`: every character means itself.
    private mutating func quotation(_ flags: Flags) throws(Failure) -> [PatternNode] {
        position += 2
        var nodes: [PatternNode] = []
        while position < text.count {
            if text[position] == "\\", position + 1 < text.count, text[position + 1] == "E" {
                position += 2
                break
            }
            let value = try next().value
            nodes.append(.set(cased(Pattern.CharacterSet(ranges: [value...value]), flags)))
        }
        return nodes
    }

    private mutating func group(_ flags: inout Flags) throws(Failure) -> PatternNode {
        depth += 1
        guard depth <= Self.depthLimit else { throw Failure() }
        defer { depth -= 1 }
        var inner = flags
        if take("?") {
            if take("P") { guard current == "<" else { throw Failure() } }
            if take("<") {
                let start = position
                while let scalar = current, scalar != ">" {
                    guard Pattern.CharacterSet.word.contains(scalar.value) else { throw Failure() }
                    position += 1
                }
                guard position > start, take(">") else { throw Failure() }
            } else if try setFlags(&inner) {
                // `(?i)`: for the rest of the group that contains it. It cannot be repeated.
                flags = inner
                if let scalar = current, "*+?".unicodeScalars.contains(scalar) || (scalar == "{" && counts() != nil) {
                    throw Failure()
                }
                return .empty
            }
        }
        let node = try alternatives(&inner)
        guard take(")") else { throw Failure() }
        return node
    }

    /// - Returns: whether the group ends here; else its pattern follows.
    private mutating func setFlags(_ flags: inout Flags) throws(Failure) -> Bool {
        var value = true
        while true {
            switch try next() {
            case "i": flags.ignoresCase = value
            case "m": flags.isMultiline = value
            case "s": flags.dotMatchesNewline = value
            case "U": break
            case "-":
                guard value else { throw Failure() }
                value = false
            case ":": return false
            case ")": return true
            default: throw Failure()
            }
        }
    }

    private mutating func bracket() throws(Failure) -> Pattern.CharacterSet {
        var set = Pattern.CharacterSet(ranges: [], isNegated: take("^"))
        var isFirst = true
        while isFirst || current != "]" {
            isFirst = false
            if current == "[", position + 1 < text.count, text[position + 1] == ":" {
                set.ranges += try namedClass()
                continue
            }
            let first = try member()
            guard first.count == 1, let low = first.first, low.count == 1, current == "-", position + 1 < text.count,
                text[position + 1] != "]"
            else {
                set.ranges += first
                continue
            }
            position += 1
            let last = try member()
            guard last.count == 1, let high = last.first, high.count == 1, low.lowerBound <= high.lowerBound else {
                throw Failure()
            }
            set.ranges.append(low.lowerBound...high.lowerBound)
        }
        position += 1
        return set
    }

    private mutating func member() throws(Failure) -> [ClosedRange<UInt32>] {
        let scalar = try next()
        guard scalar == "\\" else { return [scalar.value...scalar.value] }
        let set = try escape()
        return set.isNegated ? set.complement : set.ranges
    }

    private mutating func namedClass() throws(Failure) -> [ClosedRange<UInt32>] {
        position += 2
        let isNegated = take("^")
        var name = ""
        while let scalar = current, scalar != ":" {
            guard name.utf8.count < 10 else { throw Failure() }
            name.unicodeScalars.append(scalar)
            position += 1
        }
        guard take(":"), take("]"), let ranges = Pattern.CharacterSet.named[name] else { throw Failure() }
        return isNegated ? Pattern.CharacterSet(ranges: ranges).complement : ranges
    }

    /// What follows a backslash.
    private mutating func escape() throws(Failure) -> Pattern.CharacterSet {
        let scalar = try next()
        func one(_ value: UInt32) -> Pattern.CharacterSet { Pattern.CharacterSet(ranges: [value...value]) }
        func not(_ set: Pattern.CharacterSet) -> Pattern.CharacterSet {
            Pattern.CharacterSet(ranges: set.ranges, isNegated: true)
        }
        switch scalar {
        case "d": return .digit
        case "D": return not(.digit)
        case "w": return .word
        case "W": return not(.word)
        case "s": return .space
        case "S": return not(.space)
        case "a": return one(7)
        case "f": return one(12)
        case "t": return one(9)
        case "n": return one(10)
        case "r": return one(13)
        case "v": return one(11)
        case "x": return one(try hexadecimal())
        case "0"..."7":
            // `\1` would refer back to a group, which is not supported; `\01` and `\123` are octal.
            var value = scalar.value - 48
            guard scalar == "0" || current.map({ ("0"..."7").contains($0) }) == true else { throw Failure() }
            for _ in 0..<2 {
                guard let digit = current, ("0"..."7").contains(digit) else { break }
                value = value * 8 + digit.value - 48
                position += 1
            }
            return one(value)
        default:
            // Punctuation means itself; a letter without a meaning is an error, because it may get one.
            guard scalar.value < 0x80, !Pattern.CharacterSet.word.contains(scalar.value) else { throw Failure() }
            return one(scalar.value)
        }
    }

    private mutating func hexadecimal() throws(Failure) -> UInt32 {
        let isBraced = take("{")
        var value: UInt32 = 0
        var digits = 0
        while digits < (isBraced ? 8 : 2), let digit = current.flatMap({ Character($0).hexDigitValue }) {
            value = value << 4 | UInt32(digit)
            digits += 1
            position += 1
        }
        guard digits > 0, isBraced ? take("}") : digits == 2, value <= 0x10FFFF else { throw Failure() }
        return value
    }
}
