/// Appends JSON values to bytes: strings from bytes, base64, times.
enum JSONText {
    private static let hexDigits = Array("0123456789abcdef".utf8)

    /// Appends a quoted string (RFC 8259 section 7); bytes that are not UTF-8 stay unchanged.
    static func append(string bytes: [UInt8], to output: inout [UInt8]) {
        output.append(UInt8(ascii: "\""))
        for byte in bytes {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"):
                output.append(UInt8(ascii: "\\"))
                output.append(byte)
            case 0..<0x20, 0x7f:
                output += "\\u00".utf8
                output.append(hexDigits[Int(byte >> 4)])
                output.append(hexDigits[Int(byte & 15)])
            default: output.append(byte)
            }
        }
        output.append(UInt8(ascii: "\""))
    }

    /// Appends a quoted string of base64 with padding (RFC 4648 section 4).
    static func append(base64 bytes: [UInt8], to output: inout [UInt8]) {
        let alphabet = base64Alphabet
        output.append(UInt8(ascii: "\""))
        var index = 0
        while index < bytes.count {
            let count = min(3, bytes.count - index)
            var group = UInt32(bytes[index]) << 16
            if count > 1 { group |= UInt32(bytes[index + 1]) << 8 }
            if count > 2 { group |= UInt32(bytes[index + 2]) }
            for position in 0..<4 {
                output.append(
                    position <= count ? alphabet[Int(group >> (18 - 6 * UInt32(position)) & 63)] : UInt8(ascii: "="))
            }
            index += 3
        }
        output.append(UInt8(ascii: "\""))
    }

    private static let base64Alphabet = Array(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

    /// Appends a quoted time in UTC, RFC 3339, with nanoseconds if there are any; times outside the years 1 to 9999 are moved
    /// to the nearest of these.
    static func append(time seconds: Int64, nanoseconds: Int = 0, to output: inout [UInt8]) {
        let bounded = min(max(seconds, -62_135_596_800), 253_402_300_799)
        var day = bounded / 86_400
        var second = bounded % 86_400
        if second < 0 {
            second += 86_400
            day -= 1
        }
        // Days since 1 March of year 0 in eras of 400 years (146,097 days); the leap day is the last of such a year.
        let shifted = day + 719_468
        let era = (shifted >= 0 ? shifted : shifted - 146_096) / 146_097
        let dayOfEra = shifted - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let month = (5 * dayOfYear + 2) / 153
        let dayOfMonth = dayOfYear - (153 * month + 2) / 5 + 1
        let calendarMonth = month < 10 ? month + 3 : month - 9
        let year = yearOfEra + era * 400 + (calendarMonth <= 2 ? 1 : 0)

        func digits(_ value: Int64, _ count: Int) {
            var divisor: Int64 = 1
            for _ in 1..<count { divisor *= 10 }
            while divisor > 0 {
                output.append(UInt8(ascii: "0") + UInt8(value / divisor % 10))
                divisor /= 10
            }
        }
        output.append(UInt8(ascii: "\""))
        digits(year, 4)
        output.append(UInt8(ascii: "-"))
        digits(calendarMonth, 2)
        output.append(UInt8(ascii: "-"))
        digits(dayOfMonth, 2)
        output.append(UInt8(ascii: "T"))
        digits(second / 3600, 2)
        output.append(UInt8(ascii: ":"))
        digits(second / 60 % 60, 2)
        output.append(UInt8(ascii: ":"))
        digits(second % 60, 2)
        if nanoseconds > 0, bounded == seconds {
            output.append(UInt8(ascii: "."))
            digits(Int64(nanoseconds), 9)
        }
        output += "Z\"".utf8
    }
}

extension TarHeader.Time {
    /// RFC 3339 in UTC, whole seconds: `2023-11-14T22:13:20Z`.
    public var rfc3339: String {
        var text: [UInt8] = []
        JSONText.append(time: seconds, to: &text)
        return String(decoding: text.dropFirst().dropLast(), as: UTF8.self)
    }
}
