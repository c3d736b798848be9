import ArgumentParser
import LaminaDaemon

struct Mount: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Mount an image at a directory.",
        discussion: """
            An image that is not in the store is indexed first, which takes moments; its files are fetched when they are \
            opened. Where no server runs for the store, one is started, and ends after the last umount.

              lamina mount oci:/srv/images:app /mnt/app
              lamina mount --rw /var/tmp/changes registry.example.org/app:1 /mnt/app

            An image of which everything has landed is sealed: the kernel shows it by itself, and goes on when no server runs. \
            --sealed insists on that.

            Set-user-ID programs of the image run as whoever starts them, and its device files open nothing, unless --suid and --dev say \
            otherwise: with these, whoever made the image decides what users of this machine may become.

            With --rw what is written goes to UPPERDIR (beside which a work directory is made), and stays there.
            """)

    @Argument(help: "The image.") var image: String
    @Argument(help: "An existing directory.") var directory: String

    @Option(help: ArgumentHelp("A directory that takes what is written; read-only without it.", valueName: "upperdir"))
    var rw: String?

    @Flag(help: "Insist on a mount that needs no server: what is missing of the image is fetched first.")
    var sealed = false

    @Flag(
        help:
            "Let set-user-ID programs of the image gain their owner's rights, as a root directory of a container needs it."
    )
    var suid = false

    @Flag(help: "Let device files of the image open devices.")
    var dev = false

    @OptionGroup var imageOptions: ImageOptions
    @OptionGroup var facts: FactOptions
    @OptionGroup var common: CommonOptions

    func run() throws {
        try reporting(json: facts.json) {
            try MountCommand(
                reference: image, target: directory, upper: rw, platform: imageOptions.platform,
                plainHTTP: imageOptions.plainHTTP, credentialsFile: imageOptions.credentialsFile,
                sealed: sealed, suid: suid, dev: dev
            ).run(common.context(json: facts.json))
        }
    }
}

struct Unmount: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "umount", abstract: "End a mount.",
        discussion: """
            What was fetched stays in the store. A plain umount(8) does as well.

              lamina umount /mnt/app
              lamina umount --json /mnt/app
            """)

    @Argument(help: "The directory.") var directory: String

    @OptionGroup var facts: FactOptions
    @OptionGroup var common: CommonOptions

    func run() throws {
        try reporting(json: facts.json) { try UnmountCommand(target: directory).run(common.context(json: facts.json)) }
    }
}
