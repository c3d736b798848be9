import ArgumentParser
import LaminaDaemon

// The commands that look into the index.

struct Inspect: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show all that is known of an image, a file, a layer or a content.",
        discussion: """
            THING is an image; or sha256: and at least six digits of the digest of a layer or a content. With PATH it is a \
            file of the image: what each layer has there, from the lowest, of which the last one counts.

            --opened prints a path on each line, as 'lamina convert --prioritize' takes them. A pull of the image, or of its \
            next version, fetches those first. What was opened a moment ago takes some seconds to show.

              lamina inspect registry.example.org/app:1
              lamina inspect registry.example.org/app:1 /etc/os-release
              lamina inspect --opened registry.example.org/app:1 > first.txt
              lamina inspect sha256:374b6b0ce4fc --json
            """)

    @Argument(help: "An image, or sha256: and the beginning of a digest.") var thing: String
    @Argument(help: "A path in the image.") var path: String?

    @Flag(help: "Print the files of the image that were opened first, in their order.")
    var opened = false

    @OptionGroup var choice: PlatformOption
    @OptionGroup var facts: FactOptions
    @OptionGroup var common: CommonOptions

    func validate() throws {
        if opened, path != nil { throw ValidationError("--opened is of a whole image, without PATH") }
    }

    func run() throws {
        try reporting(json: facts.json) {
            let context = try common.context(json: facts.json)
            if opened { return try OpenedCommand(reference: thing, platform: choice.platform).run(context) }
            try InspectCommand(thing: thing, path: path, platform: choice.platform).run(context)
        }
    }
}

struct SQL: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sql", abstract: "Ask the index with SQLite's own client, read-only.",
        discussion: """
            Needs the program sqlite3. Without QUERY it is a prompt. docs/inspecting.md has the SQL for a dozen questions, \
            schema/README.md describes every view.

              lamina sql
              lamina sql 'SELECT * FROM cache_usage'
              lamina sql --json 'SELECT reference, state FROM image_status'
            """)

    @Argument(help: ArgumentHelp("SQL, or a command of the client such as .schema.", valueName: "query"))
    var queries: [String] = []

    @OptionGroup var facts: FactOptions
    @OptionGroup var common: CommonOptions

    func run() throws {
        try reporting(json: facts.json) { try SQLCommand(queries: queries).run(common.context(json: facts.json)) }
    }
}
