import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("the store against a model")
    struct Model {
        /// Runs Tests/Model/model.py, whose last line says what it did and what was wrong.
        private func run(_ arguments: String..., seconds: Double) throws {
            try Sandbox.with { sandbox in
                let script = Fixtures.directory + "/../Model/model.py"
                let child = try sandbox.startProgram(
                    ["python3", script, "--lamina", Requirements.lamina, "--directory", sandbox.directory] + arguments)
                let outcome = child.wait(seconds: seconds)
                print(outcome.output)
                #expect(outcome.exitCode == 0, "\(outcome)")
            }
        }

        @Test("whatever runs side by side, and whoever is killed, directory, index and model agree")
        func walk() throws { try run("--seconds", "40", "--seed", "7", seconds: 240) }

        @Test("rm and gc of an image beside the pull of one with the same files take none of these")
        func collected() throws { try run("--race", "gc", "--rounds", "4", "--files", "3000", seconds: 240) }

        @Test("a stream that fails beside one with the same files takes none of these")
        func failing() throws { try run("--race", "stream", "--rounds", "4", "--files", "3000", seconds: 240) }
    }
}
