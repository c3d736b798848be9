import ArgumentParser
import LaminaDaemon

struct Pull: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Fetch an image into the store.",
        discussion: """
            IMAGE is a registry's reference or oci:DIR[:TAG], an OCI layout directory. What the store has already, from \
            this or any other image, is not fetched. Interrupted, the same command goes on where it stopped.

              lamina pull registry.example.org/app:1
              lamina pull --lazy oci:/srv/images:app       index only; files come when they are opened
              lamina pull --platform linux/arm64 localhost:5000/app
            """)

    @Argument(help: "The image.") var image: String

    @Flag(help: "Stop after the index: the image can be mounted, and files are fetched when they are opened.")
    var lazy = false

    @Flag(help: "Keep its files, however full the store is; 'lamina unpin' ends that.")
    var pin = false

    @OptionGroup var imageOptions: ImageOptions
    @OptionGroup var facts: FactOptions
    @OptionGroup var common: CommonOptions

    func run() throws {
        try reporting(json: facts.json) {
            try PullCommand(
                reference: image, platform: imageOptions.platform, plainHTTP: imageOptions.plainHTTP, lazy: lazy,
                pin: pin, credentialsFile: imageOptions.credentialsFile
            ).run(common.context(json: facts.json))
        }
    }
}
