"""``medp2p serve``: a DICOM node that translates what it receives and sends the results on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medp2p.errors import MedP2PError

from . import dicom_output, options
from .conversion import make_job

if TYPE_CHECKING:
    from medp2p.node.service import Node
    from medp2p.node.settings import Destination, Limits, Listening

MIB = 2**20
GIB = 2**30


def serve(
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="The model file.", show_default=False)
    ] = None,
    spool: Annotated[
        Path | None,
        typer.Option(
            "--spool", help="Folder for what arrives and what is made of it.", show_default=False
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="AE@HOST:PORT",
            help="Where results go. Default: they stay in the spool.",
            show_default=False,
        ),
    ] = None,
    status: Annotated[
        Path | None,
        typer.Option("--status", help="Say how far this spool is.", show_default=False),
    ] = None,
    ae_title: Annotated[
        str, typer.Option("--ae-title", help="The node's own; callers must call it so.")
    ] = "MEDP2P",
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; 0.0.0.0 is every one.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="TCP port.")] = 11112,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            metavar="AE[@HOST]",
            help="Who may send; repeatable. Default: anybody on this machine, nobody else.",
            show_default=False,
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            "--tls-cert", help="The node's certificate, PEM: take TLS only.", show_default=False
        ),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", help="Its private key, PEM.", show_default=False)
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            "--tls-ca",
            help="Callers must show a certificate that one of these signed, PEM.",
            show_default=False,
        ),
    ] = None,
    to_tls_ca: Annotated[
        Path | None,
        typer.Option(
            "--to-tls-ca",
            help="Send by TLS to a destination whose certificate one of these signed, PEM.",
            show_default=False,
        ),
    ] = None,
    quiet: Annotated[
        float,
        typer.Option(
            "--quiet", min=1, help="Seconds without a new image, after which a series is whole."
        ),
    ] = 30.0,
    retry_hours: Annotated[
        float, typer.Option("--retry-hours", min=0, help="How long a result is tried to be sent.")
    ] = 24.0,
    keep_hours: Annotated[
        float,
        typer.Option(
            "--keep-hours",
            min=0,
            help="How long copies stay after they were sent, skipped or have failed.",
        ),
    ] = 168.0,
    max_associations: Annotated[
        int, typer.Option("--max-associations", min=1, help="Callers at once.")
    ] = 16,
    max_object: Annotated[
        int, typer.Option("--max-object", min=1, help="Largest object, MiB.")
    ] = 2048,
    max_spool: Annotated[
        float, typer.Option("--max-spool", min=0, help="Largest spool, GiB.")
    ] = 100.0,
    min_free: Annotated[
        float, typer.Option("--min-free", min=0, help="Disk space left free, GiB.")
    ] = 2.0,
    idle_timeout: Annotated[
        float, typer.Option("--idle-timeout", min=1, help="Seconds until a silent caller is cut.")
    ] = 60.0,
    rules: Annotated[
        Path | None,
        typer.Option("--rules", help="YAML file that says what is wanted.", show_default=False),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Translate scans that do not look like the training data; mark them."
        ),
    ] = False,
    mask: Annotated[
        Literal["auto", "none"],
        typer.Option("--mask", help="Body mask: auto (found in the scan) or none."),
    ] = "auto",
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            help="auto (a GPU if there is one), cpu, cuda:0; repeat it for several GPUs.",
            show_default=False,
        ),
    ] = None,
    precision: options.Precision = "auto",
    batch_size: options.BatchSize = 16,
    readers: Annotated[
        int | None,
        typer.Option("--readers", min=1, help="Processes that read. Default: one per core, 8."),
    ] = None,
    time_limit: Annotated[
        float, typer.Option("--time-limit", min=1, help="Seconds until a scan is given up.")
    ] = 1800.0,
    series_description: dicom_output.SeriesDescription = None,
    series_number: dicom_output.SeriesNumber = None,
    uid_root: dicom_output.UidRoot = None,
    seed: dicom_output.Seed = None,
    body_part: dicom_output.BodyPart = None,
    deidentify: dicom_output.Deidentify = False,
    deidentify_key: dicom_output.DeidentifyKey = None,
    allow_burned_in: dicom_output.AllowBurnedIn = False,
) -> None:
    """Receive series by DICOM, translate those that the model is for, and send the results.

    An object is on the disk before its sender is told so, and a result stays in the spool until its
    destination has it, whatever ends this process: the same command goes on. A signal ends it in
    order, with exit code 0.
    """
    _refuse_without_pynetdicom()
    if status:
        from medp2p.node.service import status_text

        typer.echo(status_text(status))
        return
    if model is None:
        raise typer.BadParameter("name the model", param_hint="--model")
    if spool is None:
        raise typer.BadParameter("name a folder", param_hint="--spool")
    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("goes with --tls-key", param_hint="--tls-cert")
    if tls_ca and not tls_cert:
        raise typer.BadParameter("goes with --tls-cert and --tls-key", param_hint="--tls-ca")
    if to_tls_ca and not to:
        raise typer.BadParameter("goes with --to", param_hint="--to-tls-ca")
    from medp2p.conversion.rules import load_rules
    from medp2p.node.service import Node
    from medp2p.node.settings import Limits

    job = make_job(
        model,
        {
            "series_description": series_description,
            "series_number": series_number,
            "uid_root": uid_root,
            "seed": seed,
            "body_part": body_part,
            "allow_burned_in": allow_burned_in,
        },
        deidentify=deidentify,
        deidentify_key=deidentify_key,
        device=device,
        precision=precision,
        batch_size=batch_size,
        mask=mask,
        force=force,
        readers=readers,
        time_limit=time_limit,
        kind="dicom",
    )
    limits = Limits(
        associations=max_associations,
        object_bytes=max_object * MIB,
        spool_bytes=int(max_spool * GIB),
        free_bytes=int(min_free * GIB),
        idle_seconds=idle_timeout,
    )
    node = Node(
        spool,
        _listening(ae_title, host, port, allow or [], limits, (tls_cert, tls_key, tls_ca)),
        job,
        load_rules(rules),
        _destination(to, to_tls_ca, tls_cert, tls_key),
        quiet_seconds=quiet,
        retry_seconds=retry_hours * 3600,
        keep_seconds=keep_hours * 3600,
    )
    _serve(node)


def _serve(node: "Node") -> None:
    from medp2p.conversion.disk import DISK_TROUBLES
    from medp2p.node.service import serve as run

    place = f"{node.listening.ae_title}@{node.listening.host}"
    try:
        conversion = run(node, lambda port: typer.echo(f"{place}:{port} listens", err=True))
    except KeyboardInterrupt:
        return
    if conversion.ended in DISK_TROUBLES:
        raise MedP2PError(f"{node.spool}: {conversion.reason}")


def _listening(
    ae_title: str,
    host: str,
    port: int,
    allow: list[str],
    limits: "Limits",
    tls: tuple[Path | None, Path | None, Path | None],
) -> "Listening":
    from medp2p.node.settings import Listening, check_ae_title, parse_caller, server_tls

    certificate, key, authorities = tls
    return Listening(
        check_ae_title(ae_title, "--ae-title"),
        host,
        port,
        tuple(map(parse_caller, allow)),
        limits,
        server_tls(certificate, key, authorities) if certificate and key else None,
    )


def _destination(
    to: str | None, authorities: Path | None, certificate: Path | None, key: Path | None
) -> "Destination | None":
    from dataclasses import replace

    from medp2p.node.settings import client_tls, parse_destination

    if to is None:
        return None
    destination = parse_destination(to)
    if authorities is None:
        return destination
    return replace(destination, tls=client_tls(authorities, certificate, key))


def _refuse_without_pynetdicom() -> None:
    try:
        import pynetdicom  # noqa: F401
    except ImportError as error:
        raise MedP2PError("medp2p serve needs pynetdicom: pip install 'medp2p[node]'") from error
