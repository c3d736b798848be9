/// Columns of text, each as wide as its widest cell; the last has no spaces behind it.
struct TextTable {
    private let rows: [[String]]
    private let rightAligned: Set<Int>

    /// - Parameter heads: empty for a table without a head line.
    init(_ heads: [String], rightAligned: Set<Int> = [], _ rows: [[String]]) {
        self.rows = heads.isEmpty ? rows : [heads] + rows
        self.rightAligned = rightAligned
    }

    var text: String {
        var widths: [Int] = []
        for row in rows {
            for (column, cell) in row.enumerated() {
                if column == widths.count { widths.append(0) }
                widths[column] = max(widths[column], cell.count)
            }
        }
        return rows.map { row in
            var line = ""
            for (column, cell) in row.enumerated() {
                let space = String(repeating: " ", count: widths[column] - cell.count)
                if column > 0 { line += "  " }
                if rightAligned.contains(column) {
                    line += space + cell
                } else {
                    line += column == row.count - 1 ? cell : cell + space
                }
            }
            return line
        }.joined(separator: "\n")
    }
}
