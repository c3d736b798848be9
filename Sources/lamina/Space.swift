import ArgumentParser
import LaminaDaemon

// The commands that make room, and those that say what may be evicted.

struct Remove: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rm", abstract: "Take images out of the store.",
        discussion: """
            What no other image and no mount holds goes with them. One that was pulled for several platforms goes for all of them. An image that is mounted is refused: end its mounts \
            first. A file that is open is readable until it is closed.

              lamina rm registry.example.org/app:1
              lamina rm --no-gc app:1 app:2          leaves the files for 'lamina gc'
            """)

    @Argument(help: "The images.") var images: [String]

    @Flag(name: .customLong("no-gc"), help: "Leave layers and files for 'lamina gc'.")
    var noCollection = false

    @OptionGroup var facts: FactOptions
    @OptionGroup var common: CommonOptions

    func run() throws {
        try reporting(json: facts.json) {
            try RemoveCommand(references: images, collects: !noCollection).run(common.context(json: facts.json))
        }
    }
}

struct Collect: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "gc", abstract: "Delete what no image and no mount holds.",
        discussion: """
            Layers of images that were removed or pulled again under the same name, what pulls that were given up have \
            brought, and files that nothing in the index is known for. Works while images are mounted and files are open.

              lamina gc --dry-run
              lamina gc --json
            """)

    @Flag(help: "Say what would go, and keep it.")
    var dryRun = false

    @OptionGroup var facts: FactOptions
    @OptionGroup var common: CommonOptions

    func run() throws {
        try reporting(json: facts.json) { try GarbageCommand(dryRun: dryRun).run(common.context(json: facts.json)) }
    }
}

struct Pin: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Keep an image's files, however full the store is.",
        discussion: """
            Where [store] max_bytes bounds the store, files that were used least recently go, and are fetched again when \
            they are opened. Those of a pinned image stay.

              lamina pin registry.example.org/app:1
              lamina pull --pin registry.example.org/app:2
            """)

    @Argument(help: "The image.") var image: String
    @OptionGroup var facts: FactOptions
    @OptionGroup var common: CommonOptions

    func run() throws {
        try reporting(json: facts.json) {
            try PinCommand(reference: image, pinned: true).run(common.context(json: facts.json))
        }
    }
}

struct Unpin: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Let an image's files go when the store is full.",
        discussion: """
            The opposite of 'lamina pin'.

              lamina unpin registry.example.org/app:1
              lamina unpin --json registry.example.org/app:1
            """)

    @Argument(help: "The image.") var image: String
    @OptionGroup var facts: FactOptions
    @OptionGroup var common: CommonOptions

    func run() throws {
        try reporting(json: facts.json) {
            try PinCommand(reference: image, pinned: false).run(common.context(json: facts.json))
        }
    }
}
