import LaminaStore

/// Whether this program could go on with a store that another program serves: `lamina serve --check-takeover`. Nothing is
/// changed.
public enum TakeoverCheck {
    /// - Throws: the reason why not.
    public static func run(root: String) throws {
        // Migrations are only added, so an index that is not newer can be brought to this program's version.
        try Index.check(root: root)
    }
}
