"""Images for the model test: OCI layout directories, of plain layers and of eStargz, that share most of their files."""
import gzip, hashlib, io, json, os, random, subprocess, tarfile


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Layout:
    """A layout directory that images are written to by hand."""

    def __init__(self, path):
        self.path = path
        os.makedirs(f"{path}/blobs/sha256", exist_ok=True)
        self.manifests = []

    def blob(self, data, media_type):
        with open(f"{self.path}/blobs/{digest(data).replace(':', '/')}", "wb") as file:
            file.write(data)
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    def image(self, tag, layers):
        """layers: (compressed blob, tar) pairs."""
        config = {"architecture": "amd64", "os": "linux", "config": {},
                  "rootfs": {"type": "layers", "diff_ids": [digest(tar) for _, tar in layers]}}
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "config": self.blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
                    "layers": [self.blob(blob, "application/vnd.oci.image.layer.v1.tar+gzip") for blob, _ in layers]}
        entry = self.blob(json.dumps(manifest).encode(), manifest["mediaType"])
        entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
        self.manifests.append(entry)
        with open(f"{self.path}/index.json", "w") as file:
            json.dump({"schemaVersion": 2, "manifests": self.manifests}, file)
        with open(f"{self.path}/oci-layout", "w") as file:
            json.dump({"imageLayoutVersion": "1.0.0"}, file)


def tar(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def truncated(blob):
    """A blob that says of itself that it is whole, and has lost its end: its tar cannot be the configuration's."""
    return blob[:len(blob) * 4 // 5]


def make_files(count, seed, shared):
    """`count` files, of which most are in every image that has the same `shared`."""
    files = {}
    for number in range(count):
        chance = random.Random(f"{shared}-{number}" if number % 8 else f"{seed}-{number}")
        if count > 10_000:
            # Where there are many files, what matters is their number.
            size = chance.choice([1, 100, 700, chance.randrange(2_000)])
        else:
            size = chance.choice([1, 700, 4096, 9000, chance.randrange(40_000)])
            if number % 97 == 5:
                size = 300_000 + chance.randrange(900_000)
        files[f"d{number % 16}/f{number}"] = chance.randbytes(size)
    return files


class Image:
    def __init__(self, reference, files, is_wrong=False):
        self.reference = reference
        self.files = files
        self.digests = {hashlib.sha256(data).hexdigest() for data in files.values() if data}
        self.is_wrong = is_wrong


def make_images(directory, lamina, count, seed):
    """Plain images, one of which is truncated, and eStargz of two of them: all share most of their files."""
    layout = Layout(f"{directory}/plain")
    images = []
    for number in range(4):
        files = make_files(count, f"{seed}-{number}", seed)
        data = tar(files)
        blob = gzip.compress(data, 1)
        is_wrong = number == 3
        layout.image(f"i{number}", [(truncated(blob) if is_wrong else blob, data)])
        images.append(Image(f"oci:{layout.path}:i{number}", files, is_wrong))
    for number in range(2):
        target = f"oci:{directory}/estargz:e{number}"
        subprocess.run([lamina, "convert", "--format", "estargz", images[number].reference, target], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        images.append(Image(target, images[number].files))
    return images
