"use strict";
(() => {
  const root = document.documentElement;
  const button = document.querySelector("[data-theme-button]");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.setAttribute("aria-label", "Switch between the light and the dark theme");
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; label(); });
  system.addEventListener("change", label);
  button.hidden = false;
  label();

  for (const compare of document.querySelectorAll("[data-compare]")) {
    const stage = compare.querySelector("[data-stage]");
    const divider = compare.querySelector("[data-divider]");
    const images = [...stage.querySelectorAll("img")];
    const chosen = (what) => compare.querySelector(`[data-choose="${what}"]`);

    const move = (percent) => {
      divider.value = Math.min(100, Math.max(0, percent));
      stage.style.setProperty("--at", `${divider.value}%`);
    };
    const show = () => {
      const colours = chosen("colours") ? chosen("colours").value : images[0].dataset.colours;
      for (const image of images) {
        for (const side of ["left", "right"]) {
          const on = image.dataset.colours === colours && image.dataset.key === chosen(side).value;
          image.classList.toggle(side, on);
        }
      }
      const titles = {};
      for (const side of ["left", "right"]) {
        titles[side] = chosen(side).selectedOptions[0].textContent;
        stage.querySelector(`[data-tag="${side}"]`).textContent = titles[side];
      }
      divider.setAttribute("aria-label", `Divider: ${titles.left} on the left, ${titles.right} on the right`);
      for (const caption of compare.querySelectorAll("[data-caption]")) {
        caption.hidden = caption.dataset.caption !== colours;
      }
    };
    const follow = (event) => {
      const box = stage.getBoundingClientRect();
      move(100 * (event.clientX - box.left) / box.width);
    };
    stage.addEventListener("pointerdown", (event) => {
      stage.setPointerCapture(event.pointerId);
      divider.focus({ preventScroll: true });
      follow(event);
      event.preventDefault();
    });
    stage.addEventListener("pointermove", (event) => {
      if (stage.hasPointerCapture(event.pointerId)) follow(event);
    });
    divider.addEventListener("input", () => move(Number(divider.value)));
    for (const select of compare.querySelectorAll("select")) select.addEventListener("change", show);
    const marks = compare.querySelector("[data-marks]");
    if (marks) {
      marks.addEventListener("change", () => stage.querySelector(".marks").classList.toggle("off", !marks.checked));
    }
    // a tall scene must not fill screen after screen
    const shape = Number(images[0].getAttribute("width")) / Number(images[0].getAttribute("height"));
    stage.style.maxWidth = `${Math.max(160, 0.85 * window.innerHeight * shape)}px`;
    show();
    move(50);
  }
})();
