"""`tubelet serve`: pages in the browser. One page is one file; its computing functions know nothing of gradio."""
