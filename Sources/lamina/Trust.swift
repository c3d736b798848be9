import ArgumentParser
import LaminaDaemon

struct Trust: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show what is claimed of images, what is proven, and what was found false.",
        discussion: """
              lamina trust show registry.example.org/app:1
              lamina trust show --json registry.example.org/app:1
            """, subcommands: [Show.self])

    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show what is known of the layers of an image, and why.",
            discussion: """
                A layer that is fetched file by file is verified by its table of contents from the first byte on. That it is the layer of \
                its chain, which other images may share, is a claim of whoever wrote the image until all of it is here and its tar was hashed.

                  lamina trust show registry.example.org/app:1
                  lamina trust show --json registry.example.org/app:1
                """)

        @Argument(help: "An image.") var image: String
        @OptionGroup var choice: PlatformOption
        @OptionGroup var facts: FactOptions
        @OptionGroup var common: CommonOptions

        func run() throws {
            try reporting(json: facts.json) {
                try TrustCommand(reference: image, platform: choice.platform).run(common.context(json: facts.json))
            }
        }
    }
}
