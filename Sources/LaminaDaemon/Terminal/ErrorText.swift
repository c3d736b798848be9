/// What a command prints on standard error when it fails.
public enum ErrorText {
    /// `{"error":{"exitCode":…,"message":…}}`
    struct Document: Encodable {
        var error: ControlFailure
    }

    /// A line with its end: a sentence after the program's name, or the same in JSON.
    public static func make(of error: any Error, json: Bool) -> String {
        make(message: "\(error)", exitCode: ExitStatus.code(of: error), json: json)
    }

    /// The same for something that is not a command's error.
    public static func make(message: String, exitCode: Int32, json: Bool) -> String {
        let document = Document(error: ControlFailure(message: message, exitCode: exitCode))
        guard json, let line = try? JSONText.line(document) else {
            return "lamina: \(withoutControls(message, keeping: ["\n", "\t"]))\n"
        }
        return String(decoding: line, as: UTF8.self) + "\n"
    }

    /// A text without what would have a terminal do something, or show it in another order: it may be a server's, or the name of a
    /// file in an image.
    static func withoutControls(_ text: String, keeping kept: Set<Unicode.Scalar>) -> String {
        func isPlain(_ scalar: Unicode.Scalar) -> Bool {
            if kept.contains(scalar) { return true }
            return switch scalar.properties.generalCategory {
            case .control, .lineSeparator, .paragraphSeparator: false
            // What turns the direction of writing; a joiner of letters is none of it.
            case .format: !(0x202A...0x202E).contains(scalar.value) && !(0x2066...0x2069).contains(scalar.value)
            default: true
            }
        }
        return String(String.UnicodeScalarView(text.unicodeScalars.map { isPlain($0) ? $0 : "\u{FFFD}" }))
    }
}
