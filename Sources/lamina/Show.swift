import ArgumentParser
import LaminaDaemon

// The commands that only read.

struct List: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ls", abstract: "List the images of the store, or the files of one.",
        discussion: """
            Files are listed layer by layer, from the lowest.

              lamina ls
              lamina ls -l oci:/srv/images:app
            """)

    @Argument(help: "An image; all images without it.") var image: String?

    @Flag(name: [.customShort("l"), .long], help: "With more columns.")
    var long = false

    @OptionGroup var choice: PlatformOption

    @OptionGroup var facts: FactOptions
    @OptionGroup var common: CommonOptions

    func run() throws {
        try reporting(json: facts.json) {
            try ListCommand(image: image, platform: choice.platform, long: long).run(common.context(json: facts.json))
        }
    }
}

struct Status: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show the server, the store, and what is being merged.",
        discussion: """
            "opens" tells how files were served: passthrough is the kernel reading the store itself.

              lamina status --watch
              lamina status --json
            """)

    @Flag(help: "Show it every second, until Ctrl-C; with --json one line each time.")
    var watch = false

    @OptionGroup var facts: FactOptions
    @OptionGroup var common: CommonOptions

    func run() throws {
        try reporting(json: facts.json) { try StatusCommand(watch: watch).run(common.context(json: facts.json)) }
    }
}

struct Doctor: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Check whether lamina can work here, and say what to do where it cannot.",
        discussion: """
            Looks at the kernel, /dev/fuse, rights, the store's file system and limits, and tries passthrough on a \
            scratch mount in the store's directory, of which nothing stays. Exit code 1 when lamina cannot work at all.

            With IMAGE it walks the way to that image instead: servers and mirrors, connection, credentials, manifest, and \
            the format of each layer, lazy or not and why. Exit code 1 when it cannot be pulled.

            'lamina doctor podman' looks whether podman, buildah, skopeo and CRI-O see the images of the store. (An image of that name \
            is docker.io/library/podman.)

              sudo lamina doctor
              lamina doctor registry.example.org/app:1
              sudo lamina doctor podman
            """)

    @Argument(help: "An image, or 'podman'; the machine without it.") var image: String?

    @OptionGroup var imageOptions: ImageOptions

    @OptionGroup var facts: FactOptions
    @OptionGroup var common: CommonOptions

    func run() throws {
        try reporting(json: facts.json) {
            let status = try DoctorCommand(
                reference: image, platform: imageOptions.platform, plainHTTP: imageOptions.plainHTTP,
                credentialsFile: imageOptions.credentialsFile
            ).run(common.context(json: facts.json))
            guard status == .success else { throw ExitCode(status.rawValue) }
        }
    }
}

struct Version: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show the versions of lamina and of what it stands on.",
        discussion: """
            Of libraries it is the version that is really loaded.

              lamina version
              lamina version --json
            """)

    @OptionGroup var facts: FactOptions
    @OptionGroup var common: CommonOptions

    func run() throws {
        try reporting(json: facts.json) { try VersionCommand().run(Output(json: facts.json)) }
    }
}
