import LaminaSQLite

extension Index {
    /// Views as a script of SQL that makes tables of their names with their rows: what may be given to somebody who must not have the
    /// index itself, and can be asked anything there.
    ///
    /// - Parameters:
    ///   - names: the views that are wanted; what is no view of the index is left out. nil: all of them.
    ///   - limit: of the script, in bytes.
    /// - Throws: `StoreError.conflict` that names the view which goes over the limit.
    public func viewScript(of names: Set<String>?, limit: Int) throws -> [UInt8] {
        try read { database in
            let known = try database.cached("SELECT name FROM sqlite_schema WHERE type = 'view' ORDER BY name")
                .map { $0.text(0) }
            var script = Array("BEGIN;\n".utf8)
            for name in known where names?.contains(name) ?? true {
                let columns = try database.prepare("SELECT name FROM pragma_table_info(?)").bind(1, text: name)
                    .map { Self.quoted($0.text(0)) }
                let table = Self.quoted(name)
                script += Array("CREATE TABLE \(table) (\(columns.joined(separator: ", ")));\n".utf8)
                // quote() writes each value as SQL reads it, whatever its type (https://www.sqlite.org/lang_corefunc.html#quote).
                let values = columns.map { "quote(\($0))" }.joined(separator: " || ',' || ")
                let insert = Array("INSERT INTO \(table) VALUES (".utf8)
                let rows = try database.prepare("SELECT \(values) FROM \(table)")
                while try rows.step() {
                    script += insert
                    script += rows.blob(0)
                    script += Array(");\n".utf8)
                    guard script.count <= limit else {
                        throw StoreError(
                            .conflict,
                            "the view \(name) has more than \(limit >> 20) MiB with those before it, which only root may ask for"
                        )
                    }
                }
            }
            return script + Array("COMMIT;\n".utf8)
        }
    }

    /// A name of the database's own, as an identifier of SQL.
    private static func quoted(_ name: String) -> String { "\"" + name.replacing("\"", with: "\"\"") + "\"" }
}
