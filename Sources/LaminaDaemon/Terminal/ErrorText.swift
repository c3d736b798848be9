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
        guard json, let line = try? JSONText.line(document) else { return "lamina: \(message)\n" }
        return String(decoding: line, as: UTF8.self) + "\n"
    }
}
