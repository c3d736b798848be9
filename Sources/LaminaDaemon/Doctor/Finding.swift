/// What was found out about one condition, and what to do about it.
public struct Finding: Sendable, Codable, Equatable {
    public enum State: String, Sendable, Codable {
        case ok
        /// lamina works, but less well.
        case warn
        /// lamina cannot work.
        case fail
        /// It cannot be found out.
        case unknown
    }

    /// A word or two that stay the same from version to version.
    public var condition: String
    public var state: State
    /// What was found.
    public var found: String
    /// The way out, if something is wrong.
    public var advice: String?

    public init(_ condition: String, _ state: State, _ found: String, advice: String? = nil) {
        self.condition = condition
        self.state = state
        self.found = found
        self.advice = advice
    }
}
