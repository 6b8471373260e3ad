"""What Prefect's pages show of a run."""

from prefect.artifacts import create_link_artifact, create_markdown_artifact

from tasks.project import Project


def link_report(project: Project, run_id: str) -> None:
    """Put the report's text on Prefect's artifacts page, and a link to the whole of it."""
    folder = project.runs / run_id / "report"
    key = "".join(letter if letter.isalnum() else "-" for letter in run_id.lower())
    html = folder / "report.html"
    create_link_artifact(link=html.as_uri(), link_text=f"Report of {run_id}", key=f"{key}-report")
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    create_markdown_artifact(markdown=markdown[:200_000], key=f"{key}-summary")
