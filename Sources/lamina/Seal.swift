import ArgumentParser
import LaminaDaemon

struct Seal: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Have an image whole, and ready to be mounted by the kernel alone.",
        discussion: """
            What is missing of the image is fetched; then a small EROFS image with all of its names is written beside its \
            files. From then on the image is mounted without FUSE, and no server is needed for it. Images of which everything \
            has landed are sealed by a running server anyway; this waits for it.

              lamina seal registry.example.org/app:1
              lamina mount --sealed registry.example.org/app:1 /mnt/app
            """)

    @Argument(help: "The image.") var image: String

    @OptionGroup var imageOptions: ImageOptions
    @OptionGroup var facts: FactOptions
    @OptionGroup var common: CommonOptions

    func run() throws {
        try reporting(json: facts.json) {
            try SealCommand(
                reference: image, platform: imageOptions.platform, plainHTTP: imageOptions.plainHTTP,
                credentialsFile: imageOptions.credentialsFile
            ).run(common.context(json: facts.json))
        }
    }
}
