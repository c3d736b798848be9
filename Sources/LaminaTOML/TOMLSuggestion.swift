/// What the author of an unknown key may have meant.
package enum TOMLSuggestion {
    /// The end of a sentence that names the nearest of the known keys; empty if there are none.
    ///
    /// - Parameter shown: how a key is written out.
    package static func text(
        for key: String, among known: some Sequence<String>, shown: (String) -> String = { $0 }
    ) -> String {
        guard let near = nearest(to: key, among: known) else { return "" }
        let isClose = near.distance <= max(2, near.key.utf8.count / 3)
        return isClose ? "; did you mean \(shown(near.key))?" : "; the nearest that it knows is \(shown(near.key))"
    }

    /// The nearest of several names; if several are equally near, the first in the alphabet.
    package static func nearest(
        to name: String, among known: some Sequence<String>
    ) -> (key: String, distance: Int)? {
        known.map { (key: $0, distance: likeness($0, name)) }.min { ($0.distance, $0.key) < ($1.distance, $1.key) }
    }

    /// The distance; a name that was cut short, or is too long, counts as a small mistake.
    private static func likeness(_ known: String, _ name: String) -> Int {
        let isCut = min(known.utf8.count, name.utf8.count) >= 4 && (known.hasPrefix(name) || name.hasPrefix(known))
        return min(distance(known, name), isCut ? 2 : .max)
    }

    /// How many letters to add, drop or change (Levenshtein); keys are short, and a name of more than 64 letters is far from
    /// any.
    static func distance(_ a: String, _ b: String) -> Int {
        let (a, b) = (Array(a.utf8.prefix(65)), Array(b.utf8.prefix(65)))
        var row = Array(0...b.count)
        for (i, x) in a.enumerated() {
            var diagonal = row[0]
            row[0] = i + 1
            for (j, y) in b.enumerated() {
                let next = min(row[j] + 1, row[j + 1] + 1, diagonal + (x == y ? 0 : 1))
                diagonal = row[j + 1]
                row[j + 1] = next
            }
        }
        return row[b.count]
    }
}
