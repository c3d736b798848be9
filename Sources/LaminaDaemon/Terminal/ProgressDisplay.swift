import Glibc
import LaminaSystem
import Synchronization

/// Shows the progress of a pull on standard error: one rewritten line on a terminal, a line for each step elsewhere; nothing
/// with JSON if it is not a terminal.
final class ProgressDisplay: Sendable {
    private struct State {
        var model = ProgressModel()
        var drawnAt = 0.0
        var isDrawn = false
    }

    private let state = Mutex(State())
    private let output: Output

    /// Ten times a second: more is not visible, and costs time.
    private static let interval = 0.1

    init(output: Output) { self.output = output }

    /// May be called on any thread, as often as needed.
    func show(_ progress: PullProgress) {
        let now = monotonicSeconds()
        state.withLock { state in
            state.model.update(progress, now: now)
            if output.showsProgressLine {
                guard now - state.drawnAt >= Self.interval else { return }
                state.drawnAt = now
                state.isDrawn = true
                write("\r\(state.model.line(width: Self.width() - 1, usesColor: output.usesColor))\u{1B}[K")
            } else if !output.json {
                for step in state.model.steps() { write(step + "\n") }
            }
        }
    }

    /// Clears the line, so that the result stands alone.
    func end() {
        state.withLock { state in
            if state.isDrawn { write("\r\u{1B}[K") }
            state.isDrawn = false
        }
    }

    private static func width() -> Int {
        var size = winsize()
        guard ioctl(STDERR_FILENO, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 10 else { return 80 }
        return Int(size.ws_col)
    }

    private func write(_ text: String) {
        let bytes = Array(text.utf8)
        _ = Glibc.write(STDERR_FILENO, bytes, bytes.count)
    }
}
