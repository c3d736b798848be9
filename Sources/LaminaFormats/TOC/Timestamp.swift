/// A moment: seconds since 1970-01-01 UTC and nanoseconds on top of them (0 ..< 1,000,000,000).
struct Timestamp: Equatable {
    var seconds: Int64 = 0
    var nanoseconds: Int32 = 0

    init() {}

    /// Reads an RFC 3339 time: `2023-11-14T22:13:20.25+01:00`; `nil` for anything else.
    ///
    /// Years may have up to nine digits and a minus, as Go writes the times that a tar can hold. Digits after the ninth of a
    /// fraction are dropped.
    init?(_ text: UnsafeRawBufferPointer) {
        var scanner = Scanner(text: text)
        let isNegative = scanner.take(UInt8(ascii: "-"))
        guard let year = scanner.number(digits: 4...9), scanner.take(UInt8(ascii: "-")),
            let month = scanner.number(digits: 2...2), 1...12 ~= month, scanner.take(UInt8(ascii: "-")),
            let day = scanner.number(digits: 2...2), 1...31 ~= day,
            scanner.take(UInt8(ascii: "T")) || scanner.take(UInt8(ascii: "t")),
            let hour = scanner.number(digits: 2...2), hour < 24, scanner.take(UInt8(ascii: ":")),
            let minute = scanner.number(digits: 2...2), minute < 60, scanner.take(UInt8(ascii: ":")),
            // 60 is a leap second, which POSIX time does not know; it becomes the next second.
            let second = scanner.number(digits: 2...2), second <= 60
        else { return nil }
        if scanner.take(UInt8(ascii: ".")) {
            guard let fraction = scanner.fraction() else { return nil }
            nanoseconds = fraction
        }
        guard let zone = scanner.zone(), scanner.isAtEnd else { return nil }
        let days = Self.days(year: isNegative ? -year : year, month: month, day: day)
        seconds = days * 86_400 + hour * 3600 + minute * 60 + second - zone
    }

    /// Days since 1970-01-01 in the Gregorian calendar, by eras of 400 years that begin on 1 March, so that the leap
    /// day is the last of its year.
    private static func days(year: Int64, month: Int64, day: Int64) -> Int64 {
        let year = month <= 2 ? year - 1 : year
        let era = (year >= 0 ? year : year - 399) / 400
        let yearOfEra = year - era * 400
        let dayOfYear = (153 * ((month + 9) % 12) + 2) / 5 + day - 1
        let dayOfEra = yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
        return era * 146_097 + dayOfEra - 719_468
    }

    private struct Scanner {
        let text: UnsafeRawBufferPointer
        var index = 0

        init(text: UnsafeRawBufferPointer) { self.text = text }

        var isAtEnd: Bool { index == text.count }

        mutating func take(_ byte: UInt8) -> Bool {
            guard index < text.count, text[index] == byte else { return false }
            index += 1
            return true
        }

        private mutating func digit() -> Int64? {
            guard index < text.count, text[index] &- UInt8(ascii: "0") <= 9 else { return nil }
            index += 1
            return Int64(text[index - 1] - UInt8(ascii: "0"))
        }

        mutating func number(digits: ClosedRange<Int>) -> Int64? {
            var value: Int64 = 0
            var count = 0
            while count < digits.upperBound, let digit = digit() {
                value = value * 10 + digit
                count += 1
            }
            return count >= digits.lowerBound ? value : nil
        }

        mutating func fraction() -> Int32? {
            var value: Int32 = 0
            var count = 0
            while let digit = digit() {
                if count < 9 { value = value * 10 + Int32(digit) }
                count += 1
            }
            guard count > 0 else { return nil }
            while count < 9 {
                value *= 10
                count += 1
            }
            return value
        }

        /// Seconds east of UTC.
        mutating func zone() -> Int64? {
            if take(UInt8(ascii: "Z")) || take(UInt8(ascii: "z")) { return 0 }
            let isWest = take(UInt8(ascii: "-"))
            guard isWest || take(UInt8(ascii: "+")), let hours = number(digits: 2...2), hours < 24,
                take(UInt8(ascii: ":")), let minutes = number(digits: 2...2), minutes < 60
            else { return nil }
            return (isWest ? -1 : 1) * (hours * 3600 + minutes * 60)
        }
    }
}
