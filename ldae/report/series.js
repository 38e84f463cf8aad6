for (const series of document.querySelectorAll(".series")) {
  const frames = [...series.querySelectorAll(".frame")];
  const slider = series.querySelector("input");
  const label = series.querySelector("output");
  const show = () => {
    frames.forEach((frame, place) => { frame.hidden = place !== slider.valueAsNumber; });
    label.textContent = frames[slider.valueAsNumber].textContent;
    slider.setAttribute("aria-valuetext", label.textContent);
  };
  slider.addEventListener("input", show);
  series.classList.add("live");
  series.querySelector(".control").hidden = false;
  show();
}
