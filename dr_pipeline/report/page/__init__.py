"""Pages of HTML that stand alone: one file, which asks no server for anything, neither a font nor an image.

    from dr_pipeline.report.page.charts import Line, lines
    from dr_pipeline.report.page.frame import Page, Section, write_page
    from dr_pipeline.report.page.parts import facts, note, table

    loss = lines("Loss", [Line("train", steps, losses)], x_label="step", y_label="loss")
    page = Page(
        title="student",
        lead="outputs/student",
        sections=[
            Section("Overview", [facts({"steps": "2,000", "epochs": "3"})]),
            Section("Curves", [loss, note("Losses are means over 50 steps.")]),
        ],
    )
    write_page(Path("student.html"), page)

`parts` and `charts` give pieces of HTML; a section's body is a list of them, laid out in a grid. Whatever text they are
given is escaped, in HTML and in the JSON of `Page.data`: captions and names from data are hostile. A page with a script
of its own puts the JSON into `Page.data`, which the script reads by `pageData()`, and names its files in `Page.assets`.

A page allows only what was written into it: its policy names the digest of each style sheet and script. So there are no
`style` and no `on…` attributes; a script may set `element.style`.
"""
