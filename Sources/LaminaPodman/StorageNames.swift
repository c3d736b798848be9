import LaminaDigest
import LaminaOCI

/// The names that containers/storage gives to layers, images and their files (https://github.com/containers/storage): another writer of
/// its directories has to use the same.
enum StorageNames {
    /// A layer's id: of the lowest its diff ID, of another one the hash of the one below and its diff ID, as text
    /// (containers/image, `storage_dest.go`).
    static func layer(_ diffID: Digest, above parent: Digest?) -> Digest {
        guard let parent else { return diffID }
        return hash("\(parent.hex)+\(diffID.hex)")
    }

    /// The ids of an image's layers, bottom first.
    static func layers(_ diffIDs: [Digest]) -> [Digest] {
        var ids: [Digest] = []
        for diffID in diffIDs { ids.append(layer(diffID, above: ids.last)) }
        return ids
    }

    private static func hash(_ text: String) -> Digest {
        Array(text.utf8).withUnsafeBytes { SHA256.hash($0) }
    }

    /// Of the short name of a layer's directory, in characters.
    static let linkLength = 26

    /// Whether a short name may have this character.
    static func isOfLink(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte) || (UInt8(ascii: "2")...UInt8(ascii: "7")).contains(byte)
    }

    /// The short name of a layer's directory, 26 characters of base32: overlayfs takes one page of options, so that long paths do
    /// not do. containers/storage makes it at random; here it is always the same one.
    static func link(_ layer: Digest) -> String {
        let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
        return hash(layer.hex).withUnsafeBytes { bytes in
            String(
                (0..<linkLength).map { index -> Character in
                    let bit = index * 5
                    let word = UInt16(bytes[bit / 8]) << 8 | UInt16(bytes[bit / 8 + 1])
                    return alphabet[Int(word >> UInt16(11 - bit % 8)) & 31]
                })
        }
    }

    /// The file of something that belongs to an image (`makeBigDataBaseName`): its own name where that has letters, digits and dots
    /// alone.
    static func bigData(_ key: String) -> String {
        let isPlain = key.utf8.allSatisfy {
            $0 == UInt8(ascii: ".") || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0)
                || (UInt8(ascii: "a")...UInt8(ascii: "z")).contains($0)
        }
        return isPlain ? key : "=" + Base64.encode(key.utf8)
    }
}

/// A time in RFC 3339, as Go's `time.Time` reads it from JSON.
enum StorageTime {
    static let unknown = "1970-01-01T00:00:00Z"

    /// The text, if Go reads it: a time that it does not read makes all of a file unreadable for podman.
    static func valid(_ text: String) -> String? {
        guard
            let match = text.wholeMatch(
                of: #/(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(\.\d{1,9})?(Z|[+-](\d\d):(\d\d))/#),
            match.0.utf8.count == match.0.count
        else { return nil }
        func number(_ digits: Substring?) -> Int { digits.flatMap { Int($0) } ?? 0 }
        let (year, month) = (number(match.1), number(match.2))
        let isLeap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
        guard (1...12).contains(month) else { return nil }
        let days = [31, isLeap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1]
        guard year >= 1, (1...days).contains(number(match.3)), number(match.4) < 24, number(match.5) < 60,
            number(match.6) < 60, number(match.9) < 24, number(match.10) < 60
        else { return nil }
        return text
    }

    /// Seconds since 1970, as text.
    static func text(_ seconds: Int64) -> String {
        // https://howardhinnant.github.io/date_algorithms.html, civil_from_days.
        let seconds = min(max(seconds, 0), 253_402_300_799)
        let (days, rest) = (seconds / 86_400, seconds % 86_400)
        let shifted = days + 719_468
        let (era, ofEra) = (shifted / 146_097, shifted % 146_097)
        let yearOfEra = (ofEra - ofEra / 1460 + ofEra / 36_524 - ofEra / 146_096) / 365
        let ofYear = ofEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let part = (5 * ofYear + 2) / 153
        let (day, month) = (ofYear - (153 * part + 2) / 5 + 1, part < 10 ? part + 3 : part - 9)
        let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
        func digits(_ number: Int64, _ count: Int) -> String {
            let text = String(number)
            return String(repeating: "0", count: max(0, count - text.count)) + text
        }
        return "\(digits(year, 4))-\(digits(month, 2))-\(digits(day, 2))T"
            + "\(digits(rest / 3600, 2)):\(digits(rest / 60 % 60, 2)):\(digits(rest % 60, 2))Z"
    }
}
