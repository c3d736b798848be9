import LaminaStore

/// Whether this program could go on with a store that another one serves: `lamina serve --check-takeover`. Nothing is changed.
public enum TakeoverCheck {
    /// - Throws: why not.
    public static func run(root: String) throws {
        // Migrations are only added, so an index that is not newer can be brought to what this program knows.
        try Index.check(root: root)
    }
}
