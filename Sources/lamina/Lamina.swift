import ArgumentParser
import Glibc
import LaminaDaemon
import LaminaSystem

/// The command line: options in, one command of LaminaDaemon out.
@main
struct Lamina: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lamina",
        abstract: "Stores container images as files, and mounts them before they are downloaded.",
        discussion: """
            An image is fetched into a store, one file for each distinct content, and mounted through FUSE. What is \
            opened is fetched first; what has arrived is read by the kernel itself (FUSE passthrough). Whatever is \
            interrupted goes on where it stopped when the same command is given again.

              lamina pull registry.example.org/app:1
              lamina mount registry.example.org/app:1 /mnt/app
              lamina status --watch
              lamina umount /mnt/app

            Exit codes: 0 done, 1 failed, 2 the store is damaged, 64 wrong usage, 69 no server runs, 75 try again \
            later (the store is in use, the network is not there), 77 a right is missing, 78 wrong configuration, \
            130 interrupted.
            """,
        version: "lamina \(laminaVersion)",
        subcommands: [
            Pull.self, Seal.self, Mount.self, Unmount.self, List.self, Status.self, Inspect.self, Trust.self, SQL.self,
            Check.self,
            Remove.self, Collect.self, Pin.self, Unpin.self, Convert.self, Doctor.self, Setup.self, Serve.self,
            Shutdown.self, Config.self, Debug.self, Version.self, GenerateManual.self,
        ])

    static func main() {
        ProcessStart.prepare()
        // Before the first thread: a command runs some dozens of threads, and two arenas are enough for them.
        Heap.limitArenas(2)
        do {
            var command = try parseAsRoot(Check.completed(Array(CommandLine.arguments.dropFirst())))
            try command.run()
            try reporting(json: CommandLine.arguments.contains("--json"), StandardOutput.flush)
        } catch {
            let code = exitCode(for: error)
            if code.isSuccess { exitAsked(message: fullMessage(for: error)) }
            // A command that failed has reported it.
            guard !(error is ExitCode), code == .validationFailure, CommandLine.arguments.contains("--json") else {
                exit(withError: error)
            }
            // A reader of JSON reads it for a wrong command line too.
            printError(ErrorText.make(message: message(for: error), exitCode: code.rawValue, json: true))
            Glibc.exit(code.rawValue)
        }
    }
}

/// Ends with what was asked for instead of a command: a help page, the version, a completion script.
private func exitAsked(message: String) -> Never {
    do {
        if !message.isEmpty { print(message) }
        try reporting(StandardOutput.flush)
        exit(ExitStatus.success.rawValue)
    } catch {
        exit(ExitStatus.failure.rawValue)
    }
}

/// Writes to standard error, after what was printed so far, also if both go to one file.
func printError(_ text: String) {
    fflush(nil)
    let bytes = Array(text.utf8)
    _ = write(STDERR_FILENO, bytes, bytes.count)
}

/// Runs a command; an error becomes a sentence, or a line of JSON, on standard error, and its exit code.
func reporting(json: Bool = false, _ body: () throws -> Void) throws {
    do {
        try body()
    } catch let code as ExitCode {
        throw code
    } catch {
        printError(ErrorText.make(of: error, json: json))
        throw ExitCode(ExitStatus.code(of: error))
    }
}
